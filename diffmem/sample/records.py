# SPDX-License-Identifier: Apache-2.0
"""What an import leaves beside its images, and says of itself in meta.json."""

import collections
import csv
import dataclasses
import io
import math
import os
from collections.abc import Callable, Iterator, Sequence

import numpy as np

from diffmem import workdir
from diffmem.arrays import UInt8
from diffmem.sample import bank, grouping
from diffmem.sample.filling import Filled

# What a reason is counted as: the first whose words are in it.
KINDS = {
  "is corrupt": "damaged",
  "is damaged": "damaged",
  "frames": "animated",
  "over the limit": "huge",
  "too many pixels": "huge",
  "that large": "huge",
  "32-bit": "32-bit pixels",
  "no image by its name": "not an image",
  "is named in": "listed but absent",
  "no prompt": "unreadable caption",
  "hidden": "hidden",
  "second entry": "doubled name",
}


@dataclasses.dataclass(frozen=True)
class Job:
  """An import that is ready to be decoded.

  Attributes:
    kind: of the source.
    path: of the source, as it was given.
    candidates: how many images there may be, None where nobody knows.
    shape: [h w c] of all.
    read: from a candidate on, images or reasons; see filling.fill.
    names: of the candidates, or None.
    texts: prompts of the candidates, or None.
    prompts_from: where prompts come from, for people.
    left_out: (name, reason) of what is no candidate.
    rule: what is done to each image.
    counts: more of what was counted.
  """

  kind: str
  path: str
  candidates: int | None
  shape: tuple[int, int, int]
  read: Callable[[int], Iterator[UInt8[np.ndarray, "h w c"] | str]]
  names: Sequence[str] | None
  texts: Sequence[str | None] | None
  prompts_from: str
  left_out: list[tuple[str, str]]
  rule: dict
  counts: dict

  def needs(self, root: str | os.PathLike) -> int:
    """Bytes that are still to be written."""
    chunks = workdir.path(root) / "sample" / "images" / "c"
    there = 0
    if chunks.exists() and workdir.is_local(chunks):
      files = (os.path.join(x, f) for x, _, fs in os.walk(chunks) for f in fs)
      there = sum(os.path.getsize(file) for file in files)
    return max(0, (self.candidates or 0) * math.prod(self.shape) - there)

  def name(self, candidate: int) -> str:
    """What a candidate is called."""
    return f"row {candidate}" if self.names is None else self.names[candidate]


def finished(root: str | os.PathLike) -> dict | None:
  """The meta.json of a finished bank, None where there is none."""
  file = workdir.path(root) / "sample" / "meta.json"
  if not file.exists():
    return None
  meta = workdir.read_json(file)
  is_stage = isinstance(meta, dict) and meta.get("status") == "finished"
  return meta if is_stage else None


def write(folder: os.PathLike, job: Job, filled: Filled) -> None:
  """prompts.json, prompt_ids.npy, names.json and left_out.csv.

  Raises:
    ValueError: there are other numbers of prompts or names than images.
  """
  end = len(filled.kept) + len(filled.left_out)
  counts = {
    "prompts": None if job.texts is None else len(job.texts),
    "names": None if job.names is None else len(job.names),
  }
  for what, count in counts.items():
    if count not in (None, end):
      raise ValueError(f"{count} {what} were given for {end} images")
  prompts, ids = None, None
  if job.texts is not None:
    prompts, ids = grouping.number([job.texts[i] for i in filled.kept])
  names = None
  if job.names is not None:
    names = [job.name(int(i)) for i in filled.kept]
  bank.write_beside(folder, prompts=prompts, prompt_ids=ids, names=names)
  text = io.StringIO(newline="")
  rows = csv.writer(text, lineterminator="\n")
  rows.writerows([("name", "reason"), *_left_out(job, filled)])
  workdir.write_bytes(
    workdir.path(folder) / "left_out.csv", text.getvalue().encode()
  )


def about(job: Job, filled: Filled) -> dict:
  """What meta.json says of the import."""
  kinds = collections.Counter(kind(why) for _, why in _left_out(job, filled))
  said = {
    "generated": len(filled.kept),
    "shape": list(job.shape),
    "source": {"path": job.path, "kind": job.kind},
    "rule": {
      **job.rule,
      "colour": _colour(job),
      "transparent": "over white",
    },
    "counts": {
      **job.counts,
      "kept": len(filled.kept),
      "left_out": sum(kinds.values()),
      "left_out_by_reason": dict(kinds.most_common()),
    },
    "prompts": {"from": job.prompts_from, "count": 0},
    "pixels": filled.sha256,
  }
  if job.texts is not None:
    prompts, ids = grouping.number([job.texts[i] for i in filled.kept])
    every = {text for text in job.texts if text is not None}
    sizes = np.bincount(ids[ids >= 0], minlength=len(prompts))
    said["prompts"] |= {
      "count": len(prompts),
      "images": [int(sizes.min()), float(np.median(sizes)), int(sizes.max())]
      if len(sizes)
      else None,
      "images_without": int((ids < 0).sum()),
      "without_images": len(every) - len(prompts),
    }
  return said


def kind(reason: str) -> str:
  """The word under which a reason is counted."""
  return next((word for part, word in KINDS.items() if part in reason), "other")


def summary(job: Job, filled: Filled) -> str:
  """One line for the log."""
  said = about(job, filled)
  height, width, channels = job.shape
  reasons = said["counts"]["left_out_by_reason"]
  shown = ", ".join(f"{count} {word}" for word, count in reasons.items())
  return (
    f"{len(filled.kept)} images of {width}x{height}x{channels} from "
    f"{job.path}, {said['prompts']['count']} prompts"
    f"{f'; left out: {shown} (left_out.csv)' if shown else ''}"
  )


def _colour(job: Job) -> str:
  if job.shape[2] == 1:
    return "grey"
  return "RGB, grey ones too" if job.counts.get("grey_files") else "RGB"


def _left_out(job: Job, filled: Filled) -> list[tuple[str, str]]:
  late = ((job.name(i), why) for i, why in sorted(filled.left_out.items()))
  return [*job.left_out, *late]
