# SPDX-License-Identifier: Apache-2.0
"""Which prompt made which image: lists, captions beside images, sub-folders.

A prompt is untrusted text, only ever compared and shown. "" is a legal
prompt; an image of which no prompt is known has None, and is in no group.
"""

import csv
import dataclasses
import io
import json
import pathlib
import posixpath
from collections.abc import Sequence

import numpy as np

from diffmem.arrays import Int
from diffmem.data import folder_captions
from diffmem.sample.archives import Files

LISTS = tuple(
  f"{name}.{kind}"
  for name in ("captions", "prompts", "metadata")
  for kind in ("csv", "jsonl")
)
FILE_COLUMNS = ("file", "file_name", "filename", "name", "path", "image")
TEXT_COLUMNS = ("prompt", "caption", "text")
MAX_TEXT = 2**20  # bytes of the caption of one image
WAYS = ("folders", "beside", "none")  # may stand in the place of a list


@dataclasses.dataclass(frozen=True)
class Prompts:
  """The prompt of each image.

  Attributes:
    texts: one for each image, None where it is not known; or None where
      nothing groups the images.
    source: where they come from, for people.
    left_out: (name, reason) of what could not be used.
    used: positions in Files.names that are no images but were read.
    repeated: rows that say again what a row above said.
  """

  texts: list[str | None] | None
  source: str
  left_out: list[tuple[str, str]] = dataclasses.field(default_factory=list)
  used: set[int] = dataclasses.field(default_factory=set)
  repeated: int = 0


def find(files: Files, images: Sequence[int], prompts: str | None) -> Prompts:
  """The prompts of the images.

  Args:
    files: of the source.
    images: positions of the images in files.names.
    prompts: path of a list; one of WAYS; or None to look for a list inside
      (LISTS), then for sub-folders, then for captions beside images (in a tar
      these come before sub-folders).

  Raises:
    FileNotFoundError: there is no such list.
    ValueError: a list gives one file two prompts, or none of the files any.
  """
  if prompts == "none":
    return Prompts(None, "none")
  if prompts is not None and prompts not in WAYS:
    place = list_file(prompts)
    found = from_list(place.read_bytes(), prompts, files, images)
    here = place.absolute().as_posix()
    used = {i for i, x in enumerate(files.names) if files.root + x == here}
    return dataclasses.replace(found, used=used)
  found = None if prompts else _inside(files, images)
  if found is not None:
    return found
  ways = {"folders": from_folders, "beside": from_beside}
  order = ["folders", "beside"]
  if files.kind == "tar":
    order.reverse()
  for way in [prompts] if prompts else order:
    found = ways[way](files, images)
    if found.texts is not None:
      return found
  if prompts is not None:
    raise ValueError(
      f"sample.prompts={prompts}: no image has its prompt there; leave it "
      "unset, or name a list"
    )
  return Prompts(None, "none")


def list_file(prompts: str) -> pathlib.Path:
  """The file of a list that was named; FileNotFoundError if there is none."""
  place = pathlib.Path(prompts).expanduser()
  if not place.is_file():
    raise FileNotFoundError(
      f"sample.prompts={prompts}: no such file; expected a .csv or .jsonl of "
      f"file and prompt, or one of {list(WAYS)}"
    )
  return place


def _inside(files: Files, images: Sequence[int]) -> Prompts | None:
  """The prompts that a source holds itself, or those of a list at its top."""
  if files.texts is not None:
    return Prompts([files.texts[i] for i in images], "captions of the set")
  top = common_folder(files, images)
  wanted = {*LISTS, *(top + name for name in LISTS)}
  lists = [i for i, name in enumerate(files.names) if name in wanted]
  if len(lists) > 1:
    shown = " and ".join(files.names[i] for i in lists)
    raise ValueError(
      f"there are {shown}: name one with --config.sample.prompts"
    )
  if not lists:
    return None
  with next(files.feed(lists))() as f:
    content = f.read()
  found = from_list(content, files.names[lists[0]], files, images)
  return dataclasses.replace(found, used={*lists})


def from_list(
  content: bytes, shown: str, files: Files, images: Sequence[int]
) -> Prompts:
  """Prompts from a CSV or JSON lines file of file and prompt.

  Names are relative to the source, or to its only top folder; in a folder
  they may be absolute. Names of files that are not there are left out.
  """
  if not shown.lower().endswith((".csv", ".jsonl")):
    raise ValueError(f"sample.prompts={shown}: expected a .csv or .jsonl file")
  names = _names(files, images)
  top = common_folder(files, images)
  rows = {name.removeprefix(top): row for row, name in enumerate(names)}
  rows |= {name: row for row, name in enumerate(names)}
  others = {*files.names, *(name for name, _ in files.left_out)}
  texts: list[str | None] = [None] * len(images)
  absent: dict[str, None] = {}
  repeated = found = 0
  for line, name, text in _rows(content, shown):
    name = posixpath.normpath(name).removeprefix(files.root)
    row = rows.get(name, rows.get(name.replace("\\", "/")))
    if row is None:
      if name not in others:
        absent[name] = None
      continue
    found += 1
    earlier = texts[row]
    if earlier is not None and earlier != text:
      raise ValueError(
        f"{shown}: line {line} gives {name!r} the prompt {text[:80]!r}, a line "
        f"above gave it {earlier[:80]!r}: keep one"
      )
    repeated += earlier is not None
    texts[row] = text
  if not found:
    example = next(iter(absent), None)
    raise ValueError(
      f"{shown} names none of the {len(images)} images: it has "
      f"{example!r}, the images are like {next(iter(rows), None)!r}"
    )
  reason = f"is named in {shown}, but is not there"
  return Prompts(
    texts,
    shown,
    [(clean(name), reason) for name in absent],
    repeated=repeated,
  )


def from_folders(files: Files, images: Sequence[int]) -> Prompts:
  """The first-level sub-folder is the prompt.

  In an archive below its only top folder, if all files lie in one and further
  folders are in it.
  """
  names = _names(files, images)
  if files.sharded:
    names = [name.partition("/")[2] for name in names]
  elif files.kind != "folder":
    top = common_folder(files, images)
    inside = [name.removeprefix(top) for name in names]
    if any("/" in name for name in inside):
      names = inside
  texts = [name.lstrip("/").partition("/") for name in names]
  if not any(slash for _, slash, _ in texts):
    return Prompts(None, "none")
  return Prompts(
    [clean(first) if slash else None for first, slash, _ in texts],
    "sub-folders",
  )


def from_beside(files: Files, images: Sequence[int]) -> Prompts:
  """KEY.txt, or "caption" or "prompt" in KEY.json, beside KEY.png.

  KEY is the name up to its last dot, or to the first dot of its file.
  """
  where = {name: i for i, name in enumerate(files.names)}
  beside: dict[int, list[int]] = {}  # position of a text -> rows of images
  for row, name in enumerate(_names(files, images)):
    folder, _, last = name.rpartition("/")
    short = posixpath.join(folder, last.partition(".")[0])
    keys = (name.rpartition(".")[0], short)
    found = [key + end for end in (".txt", ".json") for key in keys]
    text = next((where[x] for x in found if x in where), None)
    if text is not None:
      beside.setdefault(text, []).append(row)
  texts: list[str | None] = [None] * len(images)
  left_out: list[tuple[str, str]] = []
  order = sorted(beside)
  for i, opener in zip(order, files.feed(order), strict=True):
    try:
      with opener() as f:
        text = _caption(f.read(MAX_TEXT + 1), files.names[i])
    except Exception as e:  # zip and gzip raise anything on damaged files
      left_out.append((files.names[i], f"gives no prompt ({e})"))
      continue
    for row in beside[i]:
      texts[row] = text
  if all(text is None for text in texts):
    return Prompts(None, "none", left_out)
  return Prompts(texts, "captions beside the images", left_out, {*order})


def number(
  texts: Sequence[str | None],
) -> tuple[list[str], Int[np.ndarray, " n"]]:
  """Distinct prompts in the order of their first image, and each one's id."""
  known: dict[str, int] = {}
  ids = [
    -1 if text is None else known.setdefault(text, len(known)) for text in texts
  ]
  return list(known), np.asarray(ids, np.int64)


def common_folder(files: Files, images: Sequence[int]) -> str:
  """NAME/ where all images lie below one folder, else nothing."""
  tops = {name.partition("/")[:2] for name in _names(files, images)}
  first, slash = next(iter(tops), ("", ""))
  return first + slash if len(tops) == 1 and slash else ""


def clean(text: str) -> str:
  """The text as valid Unicode: half a surrogate pair is written out."""
  return text.encode("utf-8", "backslashreplace").decode()


def _names(files: Files, images: Sequence[int]) -> list[str]:
  return [files.names[i] for i in images]


def _rows(content: bytes, shown: str):
  """(line, file, prompt) of a list, checked."""
  columns = (FILE_COLUMNS, TEXT_COLUMNS)
  reader = folder_captions.from_jsonl
  if shown.lower().endswith(".csv"):
    reader = folder_captions.from_csv
  try:
    f = io.StringIO(content.decode("utf-8-sig"), newline="")
    for line, name, text in reader(f, *columns):
      if not isinstance(name, str) or not isinstance(text, str):
        raise ValueError(f"line {line}: expected a file and its prompt")
      yield line, name, clean(text)
  except (ValueError, csv.Error) as e:
    raise ValueError(f"{shown}: {e}") from None


def _caption(content: bytes, name: str) -> str | None:
  if len(content) > MAX_TEXT:
    raise ValueError(f"more than {MAX_TEXT} bytes")
  text = content.decode("utf-8-sig")
  if name.endswith(".txt"):
    return clean(text.rstrip("\r\n"))
  fields = json.loads(text)
  if not isinstance(fields, dict):
    raise ValueError("no JSON object")
  for key in ("prompt", "caption", "text"):
    if isinstance(fields.get(key), str):
      return clean(fields[key])
  return None
