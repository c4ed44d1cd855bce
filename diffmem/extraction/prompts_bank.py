# SPDX-License-Identifier: Apache-2.0
"""Reading a bank prompt by prompt, in memory that does not grow with it.

The images of a prompt may lie anywhere in the bank. Prompts are taken in
groups (GROUP_PROMPTS of them, or GROUP_BYTES of images if that is less; one
prompt at least) and a group's rows are read together, in their order. Samples
across prompts take one prompt at most once in a group of images, or a few
images of each.
"""

import dataclasses
import difflib
import math
import os
from collections.abc import Iterator, Sequence
from concurrent import futures

import numpy as np

from diffmem import workdir
from diffmem.arrays import Int, UInt8

GROUP_PROMPTS = 64
GROUP_BYTES = 1 << 27
READ_BYTES = 1 << 27  # of chunks that are read at once
POOL_BYTES = 1 << 28  # of images that are compared across prompts at once
POOL = 2048  # of them
RUN = 8  # control groups that take images of the same prompts
CONTROL_BYTES = 1 << 30  # of chunks that control groups may always read
CONTROL_SHARE = 0.1  # of the chunks, where that is more


@dataclasses.dataclass(frozen=True)
class Prompt:
  """id: of the prompt; rows: of its images in the bank, ascending."""

  id: int
  rows: Int[np.ndarray, " p"]


def by_prompt(prompt_ids: Int[np.ndarray, " n"]) -> list[Prompt]:
  """The prompts that have images, ascending; id -1 is none."""
  order = np.argsort(prompt_ids, kind="stable")
  names, first = np.unique(prompt_ids[order], return_index=True)
  parts = np.split(order, first[1:]) if len(names) else []
  return [
    Prompt(int(name), rows)
    for name, rows in zip(names, parts, strict=True)
    if name >= 0
  ]


def groups(
  prompts: Sequence[Prompt], size: int, limit: int
) -> list[list[Prompt]]:
  """Prompts in groups that are read together; size: bytes of an image."""
  found, group, held = [], [], 0
  for prompt in prompts:
    more = min(len(prompt.rows), limit) * size
    full = held + more > GROUP_BYTES or len(group) == GROUP_PROMPTS
    if not found or full:
      group, held = [], 0
      found.append(group)
    group.append(prompt)
    held += more
  return found


def read(images, rows: Int[np.ndarray, " r"]) -> UInt8[np.ndarray, "r h w c"]:
  """Rows of a store in any order; each of its chunks is read once."""
  wanted, place = np.unique(rows, return_inverse=True)
  if len(wanted) and wanted[-1] - wanted[0] + 1 == len(wanted):
    out = images[int(wanted[0]) : int(wanted[-1]) + 1]
  else:
    out = _gather(images, wanted)
  if np.array_equal(place, np.arange(len(wanted))):
    return out
  return out[place]


def _gather(images, rows: Int[np.ndarray, " r"]) -> UInt8[np.ndarray, "r ..."]:
  """Rows, ascending, READ_BYTES of chunks at a time."""
  chunk = images.chunk * image_bytes(images.shape[1:])
  turn = rows // images.chunk // max(1, READ_BYTES // chunk)
  out = np.empty((len(rows), *images.shape[1:]), np.uint8)
  ends = np.flatnonzero(np.diff(turn, append=-1)) + 1
  for start, end in zip([0, *ends], ends, strict=False):
    out[start:end] = images[rows[start:end]]
  return out


def read_groups(
  images, wanted: Sequence[list[Prompt]], limit: int
) -> Iterator[tuple[list[Prompt], list[UInt8[np.ndarray, "p h w c"]]]]:
  """(group, images of each of its prompts), the next one being read."""

  def load(group: list[Prompt]):
    rows = [prompt.rows[:limit] for prompt in group]
    found = read(images, np.concatenate(rows))
    return np.split(found, np.cumsum([len(r) for r in rows])[:-1])

  with futures.ThreadPoolExecutor(1) as pool:
    ahead = [pool.submit(load, group) for group in wanted[:1]]
    for i, group in enumerate(wanted):
      found = ahead.pop().result()
      ahead = [pool.submit(load, other) for other in wanted[i + 1 : i + 2]]
      yield group, found


def pool_rows(
  prompts: Sequence[Prompt], one: int, seed: int
) -> tuple[Int[np.ndarray, " r"], Int[np.ndarray, " r"]]:
  """(rows, their prompts): a few images of each of many prompts.

  one: bytes of an image. As many prompts as POOL and POOL_BYTES allow, drawn
  at random, each with as many images as fill it: a run of them, which lies in
  few chunks and, seeds being in no order, is as good as any.
  """
  most = max(2, min(POOL, POOL_BYTES // one))
  rng = np.random.default_rng([seed, 1])
  each = max(1, most // len(prompts))
  drawn = rng.permutation(len(prompts))[: max(2, most // each)]
  rows, ids = [], []
  for i in np.sort(drawn):
    own = prompts[i].rows
    first = rng.integers(max(len(own) - each, 0) + 1)
    some = own[first : first + each]
    rows.append(some)
    ids.append(np.full(len(some), prompts[i].id))
  order = np.argsort(np.concatenate(rows))
  return np.concatenate(rows)[order], np.concatenate(ids)[order]


def control_rows(
  prompts: Sequence[Prompt],
  size: int,
  count: int,
  *,
  one: int,
  chunk: int,
  seed: int,
) -> Int[np.ndarray, "g s"]:
  """Groups of images of different prompts, one image of each.

  size: of a group; count: groups at most; one: bytes of an image; chunk:
  images of a chunk. Up to RUN groups take the same prompts and runs of their
  images, which lie together. Of a bank beyond CONTROL_BYTES, as many groups
  as read CONTROL_SHARE of its chunks, or CONTROL_BYTES if that is more.
  """
  run = min(RUN, max(1, POOL_BYTES // (size * one)))
  chunks = sum(len(prompt.rows) for prompt in prompts) / chunk
  most = max(CONTROL_SHARE * chunks, CONTROL_BYTES / (chunk * one))
  if chunks > most:
    reads = size * (1 + (run - 1) / chunk)  # of the groups of one run
    count = min(count, run * max(1, int(most / reads)))
  rng = np.random.default_rng([seed, 2])
  found = np.empty((count, size), np.int64)
  for start in range(0, count, run):
    drawn = rng.choice(len(prompts), size, replace=False)
    for place, i in enumerate(np.sort(drawn)):
      own = prompts[i].rows
      turn = rng.integers(len(own)) + np.arange(min(run, count - start))
      found[start : start + run, place] = own[turn % len(own)]
  return found


def read_controls(
  images, rows: Int[np.ndarray, "g s"]
) -> Iterator[UInt8[np.ndarray, "s h w c"]]:
  """The images of each control group; several are read together."""
  group = image_bytes(images.shape[1:]) * max(rows.shape[1], 1)
  together = max(1, POOL_BYTES // group)
  for start in range(0, len(rows), together):
    part = rows[start : start + together]
    found = read(images, part.ravel())
    yield from found.reshape(*part.shape, *found.shape[1:])


def named(
  unsuspected,
  texts: Sequence[str],
  root: str | os.PathLike | None = None,
) -> list[int]:
  """Ids of prompts given as ids, texts, or a file with one of them a line.

  A file of this name in the workdir `root` comes first.
  Raises FileNotFoundError for a file that is not there and ValueError for a
  prompt that the bank does not have.
  """
  if isinstance(unsuspected, str | os.PathLike):
    file = workdir.path(unsuspected)
    if root is not None and (inside := workdir.path(root) / file).exists():
      file = inside
    if not file.exists():
      raise FileNotFoundError(
        f"prompts.unsuspected = {os.fspath(unsuspected)!r} is no file: give a "
        "file with a prompt or its id on each line, or a tuple of them"
      )
    lines = file.read_text().splitlines()
    unsuspected = [line for line in lines if line.strip()]
  known = {text: i for i, text in reversed([*enumerate(texts)])}
  ids = sorted({_named(entry, known, len(texts)) for entry in unsuspected})
  if not ids:
    raise ValueError("prompts.unsuspected names no prompt: give some, or None")
  return ids


def _named(entry, known: dict[str, int], count: int) -> int:
  if isinstance(entry, str) and entry in known:
    return known[entry]
  text = str(entry).strip()
  if text in known:
    return known[text]
  if text.isdigit() and int(text) < count:
    return int(text)
  near = difflib.get_close_matches(text, known, n=1)
  hint = f"; did you mean {near[0]!r}?" if near else ""
  raise ValueError(
    f"prompts.unsuspected names {text!r}, which is no prompt of the bank and "
    f"no id in 0..{count - 1}{hint}"
  )


def image_bytes(shape: Sequence[int]) -> int:
  """Of an image [h w c]."""
  return math.prod(shape)
