# SPDX-License-Identifier: Apache-2.0
"""Source `folder:PATH`: image files, in the order of their relative paths.

Labels are the first-level sub-folders when every image lies in one. Captions
come from a list or from files beside the images; see `folder_captions`. Hidden
files and files of other kinds are left out and counted. A file's name is only
ever shown and compared.
"""

import concurrent.futures
import os
import pathlib
import warnings
from collections.abc import Callable, Iterator, Sequence

import numpy as np
from jaxtyping import Int, UInt8
from PIL import Image

from diffmem.data import folder_captions
from diffmem.data.dataset import Dataset
from diffmem.data.images import SUFFIXES, File, Fit, decode, fault, stack


def folder(argument: str, fit: Fit, data_dir: object) -> Dataset:
  """Reads every image under a folder, in parallel threads."""
  root = pathlib.Path(argument).expanduser()
  if not argument or not root.is_dir():
    raise FileNotFoundError(
      f"source 'folder:{argument}': no such folder; expected folder:PATH"
    )
  found = sorted(walk(root), key=lambda path: path.as_posix())
  files = [path for path in found if path.suffix.lower() in SUFFIXES]
  files = [path for path in files if not is_hidden(path)]
  if not files:
    raise ValueError(
      f"{root} holds no images among its {len(found)} files: expected files "
      f"ending in {' '.join(SUFFIXES)}"
    )
  return assemble(
    [path.as_posix() for path in found],
    files,
    lambda path: root / path,
    lambda name: (root / name).read_bytes(),
    fit,
    str(root),
  )


def assemble(
  found: Sequence[str],
  files: list[pathlib.PurePosixPath],
  opened: Callable[[pathlib.PurePosixPath], File],
  content: Callable[[str], bytes],
  fit: Fit,
  where: str,
) -> Dataset:
  """The dataset of image files with what lies beside them.

  Args:
    found: all names; files: the images among them, in their order.
    opened: what PIL opens for an image; content: the bytes of another file.
    fit: of each image.
    where: the folder or archive, for messages.
  """
  names = [path.as_posix() for path in files]
  captions, caption_file, used = folder_captions.read(
    set(found), names, content, where
  )
  images, transparent = read(opened, files, fit, where)
  labels, class_names = classes(files)
  info = {
    "ignored_files": len(found) - len(files) - used,
    "transparent_images": transparent,
    "grey_images": sum(image.shape[2] == 1 for image in images),
    "caption_file": caption_file,
  }
  if class_names:
    info["class_names"] = class_names
  return Dataset(
    images=stack(images, names),
    ids=np.arange(len(files)),
    labels=labels,
    captions=captions,
    names=tuple(printable(name) for name in names),
    info=info,
  )


def walk(
  root: pathlib.Path, inside: str = "", above: tuple[str, ...] = ()
) -> Iterator[pathlib.PurePosixPath]:
  """Relative paths of all files; links are followed, loops are refused."""
  here = os.path.realpath(root / inside)
  if here in above:
    raise ValueError(f"{root / inside} links to a folder that contains it")
  with os.scandir(here) as entries:
    for entry in sorted(entries, key=lambda entry: entry.name):
      path = os.path.join(inside, entry.name)
      if entry.is_dir():
        yield from walk(root, path, (*above, here))
      else:
        yield pathlib.PurePosixPath(*path.split(os.sep))


def is_hidden(path: pathlib.PurePosixPath) -> bool:
  """Whether the file, or a folder above it, has a name like .this."""
  return any(part.startswith(".") and part != ".." for part in path.parts)


def printable(name: str) -> str:
  """The name as valid UTF-8, whatever bytes the disk holds."""
  return os.fsencode(name).decode("utf-8", "backslashreplace")


def read(
  opened: Callable[[pathlib.PurePosixPath], File],
  files: list[pathlib.PurePosixPath],
  fit: Fit,
  where: str,
) -> tuple[list[UInt8[np.ndarray, "_ _ _"]], int]:
  """Decodes and fits all files; how many had transparent pixels.

  Raises ValueError naming up to three files that cannot be used.
  """

  def one(path):
    try:
      image, transparent = decode(opened(path))
      return fit(image), transparent, None
    except Exception as e:  # PIL's decoders raise anything on damaged files
      return None, False, fault(e)

  with (
    warnings.catch_warnings(),
    concurrent.futures.ThreadPoolExecutor() as threads,
  ):
    warnings.simplefilter("error", Image.DecompressionBombWarning)
    results = list(threads.map(one, files))
  faults = [
    f"{path.as_posix()!r} {why}"
    for path, (_, _, why) in zip(files, results, strict=True)
    if why is not None
  ]
  if faults:
    shown = "; ".join(faults[:3])
    raise ValueError(
      f"{len(faults)} of {len(files)} images in {where} cannot be used: {shown}"
      f"{'; ...' if len(faults) > 3 else ''}: repair or remove them"
    )
  images = [image for image, _, _ in results if image is not None]
  return images, sum(transparent for _, transparent, _ in results)


def classes(
  files: list[pathlib.PurePosixPath],
) -> tuple[Int[np.ndarray, " b"] | None, list[str] | None]:
  """Labels [b] and names of the first-level sub-folders, or (None, None)."""
  if any(len(path.parts) < 2 for path in files):
    return None, None
  tops = [path.parts[0] for path in files]
  names, labels = np.unique(tops, return_inverse=True)
  return labels.astype(np.int64), [printable(name) for name in names.tolist()]
