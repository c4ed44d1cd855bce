# SPDX-License-Identifier: Apache-2.0
"""Source `tar:PATH`: image files in a tar, or in all tars of a folder.

Tars (.tar, .tar.gz, .tgz) are as WebDataset writes them: KEY.jpg beside KEY.txt
or KEY.json. Order, labels and captions are those of the same files in a folder;
names of a folder of tars start with the tar's own. Nothing is unpacked to disk,
and a name is never used as a path.
"""

import io
import pathlib
import tarfile
import zlib

from diffmem.data import folder_captions, folders
from diffmem.data.dataset import Dataset
from diffmem.data.images import SUFFIXES, Fit

ARCHIVES = (".tar", ".tar.gz", ".tgz")
BESIDE = (".txt", ".json")


def tar(argument: str, fit: Fit, data_dir: object) -> Dataset:
  """Reads the images, their labels and their captions."""
  root = pathlib.Path(argument).expanduser()
  if not argument or not root.exists():
    raise FileNotFoundError(
      f"source 'tar:{argument}': no such file or folder; expected tar:PATH"
    )
  inside = root.is_dir()
  files = [root]
  if inside:
    files = sorted(f for f in root.iterdir() if f.name.endswith(ARCHIVES))
  content: dict[str, bytes] = {}
  for file in files:
    for name, data in _entries(file).items():
      content[f"{file.name}/{name}" if inside else name] = data
  paths = map(pathlib.PurePosixPath, sorted(content))
  images = [
    path
    for path in paths
    if path.suffix.lower() in SUFFIXES and not folders.is_hidden(path)
  ]
  if not images:
    raise ValueError(
      f"{root} holds no images among its {len(content)} files: expected tars "
      f"with files ending in {' '.join(SUFFIXES)}"
    )
  return folders.assemble(
    list(content),
    images,
    lambda path: io.BytesIO(content[path.as_posix()]),
    content.__getitem__,
    fit,
    str(root),
  )


def _entries(file: pathlib.Path) -> dict[str, bytes]:
  """The files of a tar by name; what is no image and no text stays empty."""
  found: dict[str, bytes] = {}
  try:
    with tarfile.open(file) as archive:
      for entry in archive:
        if not entry.isfile():
          continue
        name = entry.name.removeprefix("./")
        if name in found:
          raise ValueError(f"{name!r} stands in it twice")
        wanted = name.lower().endswith((*SUFFIXES, *BESIDE))
        opened = None
        if wanted or name in folder_captions.LISTS:
          opened = archive.extractfile(entry)
        found[name] = b"" if opened is None else opened.read()
  except (tarfile.TarError, EOFError, OSError, zlib.error, ValueError) as e:
    raise ValueError(f"{file} is no tar that can be read: {e}") from None
  return found
