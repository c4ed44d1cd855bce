# SPDX-License-Identifier: Apache-2.0
"""Images read by many threads, in their order and in constant memory.

PIL lets other threads run while it decodes. At most a few images a thread are
on their way at a time.
"""

import collections
import concurrent.futures
import contextlib
import io
import itertools
import os
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

import numpy as np

from diffmem.arrays import UInt8
from diffmem.data import images
from diffmem.sample.archives import Opener

T = TypeVar("T")
AT_ONCE = 16  # small images go to a thread in groups


def measure(
  feed: Iterable[Opener], max_pixels: int
) -> Iterator[tuple[int, int, int] | str]:
  """(height, width, channels) from each header, or why it is left out."""

  def one(opener: Opener) -> tuple[int, int, int] | str:
    try:
      with opener() as f:
        return images.measure(f, max_pixels=max_pixels)
    except MemoryError:
      raise
    except Exception as e:
      return images.fault(e)

  return _ordered(one, feed, AT_ONCE)


def decode(
  feed: Iterable[Opener],
  fit: images.Fit,
  shape: tuple[int, ...],
  max_pixels: int,
) -> Iterator[UInt8[np.ndarray, "h w c"] | str]:
  """Each image in the shape [h w c], or why it is left out."""

  def one(opener: Opener) -> UInt8[np.ndarray, "h w c"] | str:
    try:
      with opener() as f:
        file = io.BytesIO(f.read())
      pixels, _ = images.decode(file, max_pixels=max_pixels)
      pixels = fit(pixels)
      if pixels.shape[:2] != shape[:2]:
        height, width, _ = pixels.shape
        raise ValueError(
          f"is {width}x{height}, its header says {shape[1]}x{shape[0]}"
        )
      return np.ascontiguousarray(np.broadcast_to(pixels, shape))
    except MemoryError:
      raise
    except Exception as e:
      return images.fault(e)

  small = shape[0] * shape[1] <= 2**14
  return _ordered(one, feed, AT_ONCE if small else 1)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
  """What is wrong with an image stands in its reason, not on the screen."""
  with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    yield


def _ordered(
  work: Callable[[Any], T], items: Iterable[Any], at_once: int
) -> Iterator[T]:
  """work(item) of every item, in order, a bounded number ahead."""

  def several(group: list[Any]) -> list[T]:
    return [work(item) for item in group]

  items = iter(items)
  threads = workers()
  waiting: collections.deque = collections.deque()
  pool = concurrent.futures.ThreadPoolExecutor(threads)
  try:
    while True:
      while len(waiting) < 3 * threads:
        group = list(itertools.islice(items, at_once))
        if not group:
          break
        waiting.append(pool.submit(several, group))
      if not waiting:
        return
      yield from waiting.popleft().result()
  finally:
    pool.shutdown(cancel_futures=True)


def workers() -> int:
  """The cores that this process may use."""
  if hasattr(os, "sched_getaffinity"):
    return len(os.sched_getaffinity(0))
  return os.cpu_count() or 1
