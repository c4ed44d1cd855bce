# SPDX-License-Identifier: Apache-2.0
"""Captions beside a folder of images.

Either captions.csv (a header with the columns file and caption) or
captions.jsonl (one object {"file": ..., "caption": ...} a line), in UTF-8.
Images without a caption get "".
"""

import csv
import json
import pathlib
from collections.abc import Iterable, Iterator, Sequence

FILES, TEXTS = ("file",), ("caption",)


def read(
  root: pathlib.Path, names: Sequence[str]
) -> tuple[tuple[str, ...] | None, str | None]:
  """A caption for each name, and the file they came from.

  Raises ValueError: a doubled or unknown file, or a line of another form.
  """
  readers = {"captions.csv": from_csv, "captions.jsonl": from_jsonl}
  present = [name for name in readers if (root / name).is_file()]
  if not present:
    return None, None
  if len(present) > 1:
    raise ValueError(f"{root} holds {' and '.join(present)}: keep one of them")
  path = root / present[0]
  known = set(names)
  captions: dict[str, str] = {}
  try:
    with path.open(encoding="utf-8-sig", newline="") as f:
      for line, file, caption in readers[path.name](f):
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
    raise ValueError(f"{path}: {e}") from None
  return tuple(captions.get(name, "") for name in names), path.name


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
