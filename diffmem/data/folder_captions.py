# SPDX-License-Identifier: Apache-2.0
"""Captions of image files in a folder or a tar.

The first of these that is there:

1. a list at the top, captions or metadata, .csv (a header with the columns file
   and caption) or .jsonl (one object {"file": ..., "caption": ...} a line);
   file_name and text are taken too;
2. beside an image KEY.png its text KEY.txt, or KEY.json with "caption", "text"
   or "prompt".

All in UTF-8. Images without a caption get "".
"""

import csv
import io
import json
import pathlib
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

FILES, TEXTS = ("file", "file_name"), ("caption", "text")
LISTS = ("captions.csv", "captions.jsonl", "metadata.csv", "metadata.jsonl")
BESIDE = (*TEXTS, "prompt")  # keys of a JSON file of one image


def read(
  entries: Collection[str],
  names: Sequence[str],
  content: Callable[[str], bytes],
  where: str,
) -> tuple[tuple[str, ...] | None, str | None, int]:
  """A caption for each name, where they came from, and of how many files.

  Args:
    entries: all files there, relative with /; content: of one of them.
    names: those that are images.
    where: the folder or archive, for messages.

  Raises ValueError: a doubled or unknown file, or a line of another form.
  """
  present = [name for name in LISTS if name in entries]
  if len(present) > 1:
    raise ValueError(f"{where} holds {' and '.join(present)}: keep one of them")
  if present:
    captions = _listed(present[0], content, set(names), where)
    return tuple(captions.get(name, "") for name in names), present[0], 1
  texts = [_beside(name, entries, content, where) for name in names]
  if all(text is None for text in texts):
    return None, None, 0
  count = sum(text is not None for text in texts)
  return tuple(text or "" for text in texts), "files beside images", count


def _listed(
  name: str, content: Callable[[str], bytes], known: set[str], where: str
) -> dict[str, str]:
  """The captions of a list, by file."""
  captions: dict[str, str] = {}
  reader = from_csv if name.endswith(".csv") else from_jsonl
  try:
    text = io.StringIO(content(name).decode("utf-8-sig"), newline="")
    for line, file, caption in reader(text):
      if not isinstance(file, str) or not isinstance(caption, str):
        raise ValueError(f"line {line}: expected a file and its caption")
      if file in captions:
        raise ValueError(f"line {line}: {file!r} has a caption already")
      if file not in known:
        raise ValueError(
          f"line {line}: there is no image {file!r} (paths are relative to "
          "the folder, with /)"
        )
      captions[file] = caption
  except (ValueError, csv.Error) as e:
    raise ValueError(f"{where}/{name}: {e}") from None
  return captions


def _beside(
  name: str,
  entries: Collection[str],
  content: Callable[[str], bytes],
  where: str,
) -> str | None:
  """The text in the .txt or .json file of an image; None without one."""
  stem = name.removesuffix(pathlib.PurePosixPath(name).suffix)
  for file in (f"{stem}.txt", f"{stem}.json"):
    if file not in entries:
      continue
    try:
      text = content(file).decode("utf-8-sig")
      if file.endswith(".txt"):
        return text.strip()
      row = json.loads(text)
    except ValueError as e:
      raise ValueError(f"{where}/{file} is no text in UTF-8 ({e})") from None
    row = row if isinstance(row, dict) else {}
    found = next((row[key] for key in BESIDE if key in row), None)
    if isinstance(found, str):
      return found
  return None


def from_csv(
  f: Iterable[str], files: Sequence[str] = FILES, texts: Sequence[str] = TEXTS
) -> Iterator[tuple[int, object, object]]:
  """(line number, file, caption) of each row.

  Args:
    f: its lines, opened with newline="" as the csv module wants.
    files, texts: names that the two columns may have, the first is preferred.
  """
  rows = csv.DictReader(f)
  columns = rows.fieldnames or []
  file = next((name for name in files if name in columns), None)
  text = next((name for name in texts if name in columns), None)
  if file is None or text is None:
    raise ValueError(
      f"its columns are {list(columns)}: expected {files[0]},{texts[0]}"
    )
  for row in rows:
    yield rows.line_num, row[file], row[text]


def from_jsonl(
  f: Iterable[str], files: Sequence[str] = FILES, texts: Sequence[str] = TEXTS
) -> Iterator[tuple[int, object, object]]:
  """(line number, file, caption) of each line that is not empty."""
  for number, line in enumerate(f, 1):
    if not line.strip():
      continue
    try:
      row = json.loads(line)
    except json.JSONDecodeError as e:
      raise ValueError(f"line {number} is not JSON ({e})") from None
    row = row if isinstance(row, dict) else {}
    file = next((row[name] for name in files if name in row), None)
    yield number, file, next((row[x] for x in texts if x in row), None)
