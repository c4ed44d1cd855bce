# SPDX-License-Identifier: Apache-2.0
"""The prompts stage: a bank grouped by prompt -> which prompts are memorized.

Needs no training images; with <root>/data it says which medoids are copies.
Writes <root>/prompts:

results.json  the counts, the edge and where it comes from, controls, the
  histograms of distances within and across prompts, with_training, and where
  prompts are captions of training images, captions (`prompts_captions`)
ranking.csv   COLUMNS, one line for each flagged prompt, best first; training
  columns are empty without training images. `exact`: nothing is better than
  the clique that was found; `duplicates`: k of the training image.
prompts.csv   ALL_COLUMNS, one line for each prompt. `tightest`: the smallest
  edge at which it is flagged (empty: too few images), so that another edge
  can be read off; `proven`: that there is no smaller one.
gallery.npz   of the first `gallery` ranks, in their order:
  prompt_ids [g], generation_ids [g]: of the medoids (int64)
  medoids [g h w c] uint8
  member_ids [g 9] int64, members [g 9 h w c] uint8: others of the clique, by
    id; -1 and zeros where there are fewer
  training_ids [g], training [g h w c]: the nearest training images, if known
  Sides above FULL (medoids, training) or SMALL (members) pixels are averaged
  down by whole factors.
pairs/<digest>/  what was measured, group by group, and can be kept where only
  delta, the edge or the gallery change.

Tables are CSV (RFC 4180) and hold prompts as they were given: a text that
starts with "=" is a formula to a spreadsheet, so import that column as text.
"""

import logging
import os
from collections.abc import Sequence

import numpy as np

import diffmem.data
from diffmem import processes, store, workdir
from diffmem.arrays import Bool, Float, UInt8
from diffmem.data import Dataset, Split
from diffmem.distances import metrics
from diffmem.extraction import prompts as attack
from diffmem.extraction import (
  prompts_bank,
  prompts_captions,
  prompts_tables,
  prompts_training,
)
from diffmem.extraction.prompts import Tested
from diffmem.extraction.prompts_job import Job
from diffmem.extraction.prompts_training import Matched
from diffmem.sample import choosing
from diffmem.sample.bank import Bank, open_bank
from diffmem.sample.bank import digest as bank_digest

_log = logging.getLogger(__name__)

Data = tuple[Dataset, Split]


@processes.led
def run(
  root: str | os.PathLike, *, seed: int, prompts: dict, progress: bool = True
) -> None:
  """Makes <root>/prompts.

  Args:
    root: the workdir; its sample stage must have finished.
    seed: of the samples across prompts and of all resampling.
    prompts: the config section, as a plain dict.
    progress: show the rate and the time left.

  Raises:
    FileNotFoundError: there is no bank.
    ValueError: it has no prompts, all have too few images, or an option
      cannot be used.
  """
  check(prompts)
  made = workdir.require(root, "sample")
  bank = open_bank(root)
  images = store.open(workdir.path(root) / "sample" / "images")
  calibrate = prompts["edge"] is None
  reason = untestable(bank, prompts["minimum"], calibrate=calibrate)
  if reason is not None:
    raise ValueError(reason)
  data = _data(root, bank)
  digest = bank_digest(made)
  inputs = {
    "bank": digest,
    "prompts": workdir.digest([bank.prompts, bank.prompt_ids]),
    "data": None if data is None else data[0].info["sha256"],
    "split": None if data is None else data[1].digest,
    "captions": None if data is None else data[0].info["annotations_sha256"],
    "chosen": workdir.digest(_kinds(root)),
  }
  config = {"seed": seed, "prompts": prompts}
  with workdir.stage(
    root, "prompts", config=config, inputs=inputs, replace=True
  ) as stage:
    if stage.finished:
      _log.info("prompts: finished before, kept (%s)", stage.folder)
      return
    job = Job(stage.folder, bank, images, seed, inputs, prompts, progress)
    results = _examine(root, job, data, digest)
    workdir.write_json(stage.folder / "results.json", results)
    stage.record("flagged", results["flagged"])


def _examine(
  root: str | os.PathLike, job: Job, data: Data | None, digest: str
) -> dict:
  """Writes the tables; what results.json says. digest: of the bank."""
  options, matched = job.options, None
  tested, results = job.run()
  results["captions"] = None
  ranked = attack.rank(tested)
  if data is not None:
    medoids = _medoids(job.images, ranked)
    matched = _match(medoids, *data, options)
    hit = _hit(root, digest, job.bank, options["delta"])
    enough = [
      t.measured.prompt
      for t in tested
      if len(t.measured.rows) >= options["minimum"]
    ]
    results["with_training"] = prompts_training.summary(
      matched,
      delta=options["delta"],
      searched=len(data[1].members),
      extractable=None if hit is None else int(hit[enough].sum()),
    ) | {"held_out": _control(medoids, *data, options["delta"], job.seed)}
    results["captions"] = prompts_captions.summary(
      tested,
      ranked,
      matched,
      job.bank.prompts or (),
      *data,
      minimum=options["minimum"],
      kinds=_kinds(root),
      hit=hit,
      seed=job.seed,
    )
  prompts_tables.write(
    workdir.path(root) / "prompts",
    job.bank,
    job.images,
    data,
    tested,
    ranked,
    matched,
    options["gallery"],
  )
  return results


def check(prompts: dict) -> None:
  """ValueError for options that cannot be used."""
  attack.check(
    **{k: prompts[k] for k in ("minimum", "edge", "flat", "limit", "budget")}
  )
  for name in ("edge_rate", "flag_rate"):
    if not 0 < prompts[name] < 1:
      raise ValueError(
        f"prompts.{name} = {prompts[name]}, expected a share such as 0.001"
      )
  for name in ("delta", "duplicates_delta"):
    if not 0 <= prompts[name] <= 1:
      raise ValueError(
        f"prompts.{name} = {prompts[name]}, expected a distance in [0, 1]"
      )
  for name in ("gallery", "controls"):
    if prompts[name] < 0:
      raise ValueError(f"prompts.{name} = {prompts[name]}, expected 0 or more")


def untestable(
  bank: Bank, minimum: int, *, calibrate: bool = False
) -> str | None:
  """Why the bank cannot be examined by prompt; None where it can.

  calibrate: whether the edge has to be calibrated on pairs across prompts.
  """
  if bank.prompts is None or bank.prompt_ids is None:
    return (
      "the bank does not know the prompts of its images: import it with one "
      "sub-folder a prompt, or give sample.prompts, a CSV of file,prompt"
    )
  sets = prompts_bank.by_prompt(bank.prompt_ids)
  most = max((len(p.rows) for p in sets), default=0)
  if most < minimum:
    return (
      f"no prompt of the bank's {len(sets)} has prompts.minimum = {minimum} "
      f"images (the most is {most}): generate more images a prompt, or lower "
      "it"
    )
  if calibrate and len(sets) < 2:
    return (
      "the bank has one prompt, and so no pairs of different prompts to "
      "calibrate the edge on: give prompts.edge (studies of large images took "
      "0.1 to 0.15)"
    )
  return None


def _data(root: str | os.PathLike, bank: Bank) -> Data | None:
  """Training images, where there are some; ValueError for other shapes."""
  folder = workdir.path(root) / "data"
  if not (folder / "meta.json").exists():
    return None
  dataset, split = diffmem.data.read(folder)
  if not len(split.members):
    return None
  if dataset.images.shape[1:] != tuple(bank.shape[1:]):
    raise ValueError(
      f"training images are {dataset.images.shape[1:]} and generations "
      f"{tuple(bank.shape[1:])}: give both the same data.resize and "
      "sample.resize"
    )
  return dataset, split


def _medoids(
  images: store.Store, ranked: Sequence[Tested]
) -> UInt8[np.ndarray, "f h w c"]:
  """Of the flagged prompts, in their order."""
  cliques = [t.answer.clique for t in ranked]
  ids = [clique.medoid for clique in cliques if clique is not None]
  return prompts_bank.read(images, np.array(ids, np.int64))


def _match(medoids, dataset: Dataset, split: Split, options: dict) -> Matched:
  return prompts_training.match(
    medoids,
    dataset.take(split.members),
    split.members,
    split.copies,
    delta=options["delta"],
    duplicates_delta=options["duplicates_delta"],
  )


def _control(
  medoids, dataset: Dataset, split: Split, delta: float, seed: int
) -> dict | None:
  """The look-up among held-out images; None where there are none."""
  if not len(split.held_out):
    return None
  return prompts_training.control(
    medoids,
    dataset.take(split.members),
    dataset.take(split.held_out),
    delta=delta,
    seed=seed,
  )


def _hit(
  root: str | os.PathLike, digest: str, bank: Bank, delta: float
) -> Bool[np.ndarray, " p"] | None:
  """Of each prompt, whether any generation lies within delta of a member.

  None where the distances stage has not searched them.
  """
  near = _near(root, digest, bank)
  if near is None or bank.prompt_ids is None or bank.prompts is None:
    return None
  return prompts_training.hit(bank.prompt_ids, near, len(bank.prompts), delta)


def _kinds(root: str | os.PathLike) -> dict[str, str] | None:
  """Why each prompt was chosen, where it was; see `sample.choosing`."""
  table = workdir.path(root) / "choose" / choosing.FILE
  if not table.exists():
    return None
  return {row.caption: row.kind for row in choosing.read(table)}


def _near(
  root: str | os.PathLike, digest: str, bank: Bank
) -> Float[np.ndarray, " n"] | None:
  """Distance of each generation to its nearest member, if it is on disk."""
  folder = workdir.path(root) / "distances"
  if not (folder / "meta.json").exists():
    return None
  meta = workdir.read_json(folder / "meta.json")
  path = folder / "generations_to_members" / "squared"
  other = meta.get("inputs", {}).get("bank") != digest
  if other or meta["status"] != "finished" or not path.exists():
    return None
  squared = store.open(path)
  found = [block[:, 0] for _, block in squared.blocks()]
  return metrics.rms(
    np.concatenate(found), prompts_bank.image_bytes(bank.shape[1:])
  )
