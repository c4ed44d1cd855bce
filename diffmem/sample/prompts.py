# SPDX-License-Identifier: Apache-2.0
"""Prompts from a file, one image group each.

  .txt    one a line; an empty line is the empty prompt, the last line's end
          starts no new one
  .jsonl  one a line: a string, or an object with "prompt", "caption" or "text"
  .csv    a header that names such a column, then one a row
  .json   a list of strings, as in a bank's prompts.json

Texts are taken as they stand, spaces included. One that occurs again, equal
in every character, is left out the second time: a prompt's images are one
group, wherever it stands in the file. The position among those that are kept
is the prompt's id.
"""

import collections
import csv
import io
import json
import os
from collections.abc import Callable, Iterator
from typing import Any

from diffmem import workdir

KEYS = ("prompt", "caption", "text")
Numbered = Iterator[tuple[int, Any]]


def read(
  path: str | os.PathLike, *, root: str | os.PathLike | None = None
) -> tuple[tuple[str, ...], int]:
  """(prompts, how many lines repeated an earlier one).

  Args:
    path: of the file.
    root: a workdir; a file of this name in it comes first.

  Raises:
    FileNotFoundError: there is no such file.
    ValueError: it is empty, not UTF-8, of another kind, or a line has no
      prompt; the line is named.
  """
  file = workdir.path(path)
  if root is not None and (inside := workdir.path(root) / file).is_file():
    file = inside
  if file.suffix not in READERS:
    raise ValueError(
      f"prompts {path}: expected a file named {', '.join(READERS)}"
    )
  if not file.is_file():
    raise FileNotFoundError(f"prompts {path}: no such file")
  try:
    text = file.read_bytes().decode("utf-8-sig")
  except UnicodeDecodeError as e:
    raise ValueError(f"prompts {path} is not UTF-8 text ({e})") from e
  counts: collections.Counter[str] = collections.Counter()
  for number, value in READERS[file.suffix](text, os.fspath(path)):
    if not isinstance(value, str):
      raise ValueError(
        f"prompts {path}, line {number}: {str(value)[:80]!r} is no text; "
        f"expected a string, or one under {', '.join(KEYS)}"
      )
    counts[value] += 1
  if not counts:
    raise ValueError(f"prompts {path} is empty: give one prompt a line")
  return tuple(counts), counts.total() - len(counts)


def _lines(text: str, path: str) -> Numbered:
  del path
  lines = text.replace("\r\n", "\n").split("\n")
  yield from enumerate(lines[:-1] if lines[-1] == "" else lines, 1)


def _json_lines(text: str, path: str) -> Numbered:
  for number, line in _lines(text, path):
    if not line.strip():
      continue
    value = _json(line, f"prompts {path}, line {number}")
    if isinstance(value, dict):
      value = next((value[key] for key in KEYS if key in value), line)
      value = value if value is not line else None
    yield number, value


def _json_list(text: str, path: str) -> Numbered:
  values = _json(text, f"prompts {path}") if text.strip() else []
  if not isinstance(values, list):
    raise ValueError(f"prompts {path}: expected a list of strings")
  yield from enumerate(values, 1)


def _table(text: str, path: str) -> Numbered:
  rows = csv.DictReader(io.StringIO(text, newline=""))
  names = [name for name in rows.fieldnames or () if name is not None]
  if not names:
    return
  column = next((key for key in KEYS if key in names), None)
  if column is None:
    raise ValueError(
      f"prompts {path} has the columns {', '.join(names)}; expected one "
      f"called {' or '.join(KEYS)}"
    )
  for row in rows:
    yield rows.line_num, row[column]


def _json(text: str, where: str) -> Any:
  try:
    return json.loads(text)
  except ValueError as e:
    raise ValueError(f"{where} is not valid JSON ({e})") from e


READERS: dict[str, Callable[[str, str], Numbered]] = {
  ".txt": _lines,
  ".jsonl": _json_lines,
  ".csv": _table,
  ".json": _json_list,
}
