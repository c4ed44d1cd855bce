# SPDX-License-Identifier: Apache-2.0
"""The membership stage: members and held-out images, scored and compared.

Writes <root>/membership: losses (a store, with losses.json saying of what),
results.json, scores.csv and roc.npz. The headline compares members that
stand in training once with held-out images, at a t that the config fixes in
advance; other times are a sweep, marked exploratory.
"""

import csv
import io
import logging
import os

import numpy as np

import diffmem.data
from diffmem import stats, workdir
from diffmem.arrays import Float, Int
from diffmem.denoiser import trained
from diffmem.membership import ATTACKS, check_attack, loss, protocol, signals

_log = logging.getLogger(__name__)

FPRS = (0.01, 0.001)


def run(
  root: str | os.PathLike,
  *,
  seed: int,
  membership: dict,
  progress: bool = True,
) -> None:
  """Makes <root>/membership, or what is still missing of it.

  Args:
    root: the workdir; its train stage must have finished.
    seed: of the noise and of the bootstrap.
    membership: the config section, as a plain dict.
    progress: show the rate and the time left.

  Raises:
    FileNotFoundError: there are no weights.
    ValueError: an option that cannot be, or losses kept from other options.
    FloatingPointError: a loss is not finite; names the ids.
  """
  _check(membership)
  train = workdir.require(root, "train")
  _, split = data = diffmem.data.read(workdir.path(root) / "data")
  for name in ("members", "held_out"):
    if not len(getattr(split, name)):
      raise ValueError(
        f"the split has 0 {name} images, membership needs some of both: raise "
        f"data.split.{name}"
      )
  inputs = {"weights": train["weights"], "split": split.digest}
  made_of = {k: membership[k] for k in ("t", "draws", "batch")}
  made_of = workdir.plain({"seed": seed, **made_of, **inputs})
  folder = workdir.path(root) / "membership"
  _check_kept(folder, made_of)
  with workdir.stage(
    root,
    "membership",
    config={"seed": seed, "membership": membership},
    inputs=inputs,
    replace=True,  # what is dear are the losses, held to their own record
  ) as stage:
    if stage.finished:
      _log.info("membership: finished before, kept (%s)", stage.folder)
      return
    workdir.write_json(folder / "losses.json", made_of)
    losses = _losses(root, folder, data, seed, membership, progress)
    _write(folder, split, losses, seed, membership)


def _check(membership: dict) -> None:
  for name in membership["attacks"]:
    check_attack(name)
  if not membership["attacks"]:
    raise ValueError("membership.attacks is empty: name one, such as 'loss'")
  if membership["headline_t"] not in membership["t"]:
    raise ValueError(
      f"membership.headline_t = {membership['headline_t']} is not in "
      f"membership.t = {tuple(membership['t'])}: add it"
    )
  if membership["bootstrap"] < 1:
    raise ValueError(
      f"membership.bootstrap = {membership['bootstrap']}, expected at least 1"
    )


def _check_kept(folder, made_of: dict) -> None:
  """Refuses losses that were computed with other options."""
  file = folder / "losses.json"
  if not file.exists():
    return
  kept = workdir.read_json(file)
  for key, value in made_of.items():
    if kept.get(key) != value:
      raise ValueError(
        f"{folder / 'losses'} was computed with {key} = {kept.get(key)!r}, "
        f"this run has {value!r}; use another --workdir, or delete {folder} "
        "to compute it anew"
      )


def _losses(root, folder, data, seed: int, membership: dict, progress: bool):
  """Members first, then held-out images."""
  dataset, split = data
  ids = np.concatenate([split.members, split.held_out])
  denoiser = trained.load(root)
  conditional = denoiser.num_classes is not None
  return signals.compute(
    denoiser,
    dataset.take(ids),
    loss.SIGNAL,
    t=membership["t"],
    draws=membership["draws"],
    seed=seed,
    augment=("identity",),
    batch=membership["batch"],
    cond=dataset.labels[dataset.rows(ids)] if conditional else None,
    ids=ids,
    path=folder / "losses",
    progress=progress,
  )


def _write(folder, split, losses, seed: int, membership: dict) -> None:
  """Scores, curves and numbers of each attack; results.json last."""
  copies = np.concatenate([split.copies, np.zeros_like(split.held_out)])
  times = list(membership["t"])
  headline = times.index(membership["headline_t"])
  results, scores, curves = {}, {}, {}
  for name in membership["attacks"]:
    by_time = protocol.evaluate(ATTACKS[name], losses).T
    results[name] = {
      **evaluate(
        by_time, copies, times, headline, membership["bootstrap"], seed
      ),
      "draws": membership["draws"],
    }
    scores[name] = by_time[headline]
    once, never = scores[name][copies == 1], scores[name][copies == 0]
    curves[f"{name}_fpr"], curves[f"{name}_tpr"], _ = stats.roc(once, never)
  packed = io.BytesIO()
  np.savez_compressed(packed, **curves)
  workdir.write_bytes(folder / "roc.npz", packed.getvalue())
  ids = np.concatenate([split.members, split.held_out])
  text = scores_csv(ids, copies, scores)
  workdir.write_bytes(folder / "scores.csv", text.encode())
  workdir.write_json(folder / "results.json", results)


def evaluate(
  scores: Float[np.ndarray, "t n"],
  copies: Int[np.ndarray, " n"],
  times: list[int],
  headline: int,
  bootstrap: int,
  seed: int,
) -> dict:
  """The numbers of one attack.

  Args:
    scores: at each time, of each image; higher means member.
    copies: how often each image is in training, 0 for non-members.
    times: the t of each row.
    headline: the row fixed in advance.
    bootstrap: resamples behind each interval.
    seed: of the resampling.
  """

  def compare(row: int, inside, fprs=FPRS) -> dict:
    return stats.summary(
      scores[row][inside],
      scores[row][copies == 0],
      fprs=fprs,
      resamples=bootstrap,
      seed=seed,
    )

  return {
    **compare(headline, copies == 1),
    "t": times[headline],
    "members": int(np.sum(copies == 1)),
    "non_members": int(np.sum(copies == 0)),
    "by_copies": {
      str(c): compare(headline, copies == c, ())["auc"]
      for c in np.unique(copies[copies > 1])[::-1]
    },
    "sweep": [
      {"t": t, "exploratory": i != headline, **compare(i, copies == 1)}
      for i, t in enumerate(times)
    ],
  }


def scores_csv(
  ids: Int[np.ndarray, " n"],
  copies: Int[np.ndarray, " n"],
  scores: dict[str, np.ndarray],
) -> str:
  """One line an image: id, member (0 or 1), copies, a column an attack."""
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow(["id", "member", "copies", *scores])
  for i, (name, count) in enumerate(zip(ids, copies, strict=True)):
    row = [f"{values[i]:.9g}" for values in scores.values()]
    writer.writerow([name, int(count > 0), count, *row])
  return out.getvalue()
