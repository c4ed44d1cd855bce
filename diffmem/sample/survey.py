# SPDX-License-Identifier: Apache-2.0
"""The header pass: which files are images, and of one size.

Nothing is decoded here. Sizes are those after the crop; files of other sizes
are never dropped in silence, and nothing is squashed.
"""

import collections
import dataclasses
from collections.abc import Sequence

from diffmem.data.images import SUFFIXES, Fit
from diffmem.progress import Progress
from diffmem.sample import decoding
from diffmem.sample.archives import Files


@dataclasses.dataclass(frozen=True)
class Survey:
  """What headers say.

  Attributes:
    usable: positions in Files.names of what can be decoded.
    shape: [h w c] of every image in the bank.
    grey: how many are grey, which become RGB if c is 3.
    left_out: (name, reason) of the others.
  """

  usable: list[int]
  shape: tuple[int, int, int]
  grey: int
  left_out: list[tuple[str, str]]


def images(files: Files) -> list[int]:
  """Positions of files that their names call images."""
  if files.kind == "tfds":
    return list(range(len(files.names)))
  names = enumerate(files.names)
  return [i for i, name in names if name.lower().endswith(SUFFIXES)]


def nothing(files: Files, path: str) -> str:
  """What to say of a source without images."""
  count = len(files.names) + len(files.left_out)
  shown = ", ".join(map(repr, files.names[:3]))
  archives = [x for x in files.names if x.lower().endswith((".zip", ".npz"))]
  hint = "; give one archive at a time" if archives else ""
  return (
    f"sample.path={path} holds no images among its {count} files"
    f"{f' ({shown})' if shown else ''}: expected files ending in "
    f"{' '.join(SUFFIXES)}{hint}"
  )


def read(
  files: Files,
  candidates: Sequence[int],
  fit: Fit,
  *,
  max_pixels: int,
  path: str,
  progress: bool,
) -> Survey:
  """Reads all headers.

  Raises:
    ValueError: no file is an image, or sizes differ and nothing says what to
      do about it.
  """
  usable, sizes, left_out = [], [], []
  grey = 0
  with Progress(
    len(candidates), what="headers", unit="files", enabled=progress
  ) as bar:
    headers = decoding.measure(files.feed(candidates), max_pixels)
    for i, header in zip(candidates, headers, strict=True):
      if isinstance(header, str):
        left_out.append((files.names[i], header))
      else:
        height, width, channels = header
        usable.append(i)
        sizes.append((height, width))
        grey += channels == 1
      bar.update(1)
  if not usable:
    first = "; ".join(f"{name!r} {why}" for name, why in left_out[:3])
    raise ValueError(
      f"sample.path={path} holds no usable image among {len(candidates)}: "
      f"{first}"
    )
  height, width = one_size(sizes, fit)
  channels = 1 if grey == len(usable) else 3
  return Survey(usable, (height, width, channels), grey, left_out)


def one_size(sizes: Sequence[tuple[int, int]], fit: Fit) -> tuple[int, int]:
  """(height, width) of all after crop and resize.

  Raises:
    ValueError: there are several, or a resize would squash.
  """
  counts = collections.Counter(sizes)
  if fit.crop == "center":
    cropped: collections.Counter = collections.Counter()
    for (height, width), count in counts.items():
      cropped[(min(height, width),) * 2] += count
    counts = cropped
  oblong = [size for size in counts if size[0] != size[1]]
  if fit.resize is not None:
    if oblong:
      count = sum(counts[size] for size in oblong)
      raise ValueError(
        f"{count} of {len(sizes)} images are not square ({shown(counts)}), "
        f"which resize={fit.resize} would squash: add "
        "--config.sample.crop=center, or remove them"
      )
    return fit.resize, fit.resize
  if len(counts) > 1:
    crop = " --config.sample.crop=center" if oblong else ""
    raise ValueError(
      f"images have {len(counts)} sizes: {shown(counts)}; bring them to one "
      f"with --config.sample.resize=SIDE{crop}, or remove those that differ"
    )
  return next(iter(counts))


def shown(counts: collections.Counter) -> str:
  """The most frequent sizes, as WIDTHxHEIGHT."""
  few = [f"{n} of {w}x{h}" for (h, w), n in counts.most_common(5)]
  return ", ".join(few) + (", ..." if len(counts) > 5 else "")
