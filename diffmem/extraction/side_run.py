# SPDX-License-Identifier: Apache-2.0
"""The side stage: a model that takes no condition is given one, and attacked.

SIDE (Chen et al., arXiv 2410.02467): cluster what the model makes, train
classifiers of the clusters on it, sample guided by them, and look whether
training images come more often than from plain sampling. `side_job` does all
that without training data; `side_scores` compares the banks with members and,
by the same rules, with as many held-out images.

Writes <root>/side:

results.json   "scores": {method: {scale: scores}}, "unguided": scores,
  "clusters", "accuracy", "n"
clusters.csv   one line for each cluster that was kept
gallery.npz    of the first `gallery` clusters: synthetic, guided, training
  uint8 [g SHOWN h w c], distances [g SHOWN], cohesion [g], sizes [g]; method
  and scale that guided them
and the folders of `side_job`.

Where there is no model but shadow models, each is attacked in its own folder,
<root>/shadows/<i>/side, and <root>/side holds what the pairs say together
(`side_pairs`): the twin of each model was trained on the other half, which is
its held-out set.
"""

import csv
import functools
import io
import logging
import os
from typing import Any

import numpy as np

import diffmem.data
from diffmem import processes, workdir
from diffmem.data import streams
from diffmem.denoiser import trained
from diffmem.extraction import side_pairs, side_scores
from diffmem.extraction.side_job import Job, Target, check

_log = logging.getLogger(__name__)

SHOWN = 6  # images of a cluster in the gallery
CLUSTERS = ("cluster", "images", "cohesion", "labelled")


@processes.led
def run(
  root: str | os.PathLike, *, seed: int, side: dict, progress: bool = True
) -> None:
  """Makes <root>/side, or what is still missing of it.

  Args:
    root: the workdir; its train stage, or that of its shadow models, must
      have finished.
    seed: of everything random.
    side: the config section, as a plain dict.
    progress: show the rate and the time left.

  Raises:
    FileNotFoundError: there is no model.
    ValueError: options that cannot be used, clusters that cannot be told
      apart, too few images to compare with.
  """
  check(side)
  root = workdir.path(root)
  shadows = [] if (root / "train").exists() else side_pairs.folders(root)
  if not shadows:
    _attack(root, seed=seed, side=side, progress=progress)
    return
  for folder in shadows:
    _log.info("side: shadow %s of %d", folder.name, len(shadows))
    _attack(folder, seed=seed, side=side, progress=progress)
  side_pairs.run(root, shadows, seed=seed, side=side)


def _attack(root, *, seed: int, side: dict, progress: bool) -> None:
  """The stage on one model."""
  meta = workdir.require(root, "train")
  inputs = {"weights": meta["weights"], "split": meta["inputs"]["split"]}
  with workdir.stage(
    root, "side", config={"seed": seed, "side": side}, inputs=inputs
  ) as stage:
    if stage.finished:
      _log.info("side: finished before, kept (%s)", stage.folder)
      return
    job = Job(
      stage.folder,
      target(root, meta),
      seed=_own(root, seed),
      side=side,
      progress=progress,
    )
    job.run()
    found = scored(root, job, seed)
    workdir.write_json(stage.folder / "results.json", found)
    stage.record("clusters", len(job.clusters()))


def target(root: str | os.PathLike, meta: dict) -> Target:
  """The trained model of a workdir."""
  config = meta["config"]

  def conditional(classes: int):
    knobs = {**config["models"], "num_classes": classes}
    return trained.network(meta["shape"], knobs, config["diffusion"])

  return Target(trained.load(root), conditional)


def scored(root: str | os.PathLike, job: Job, seed: int) -> dict[str, Any]:
  """Results.json: here, and not before, training data are read."""
  dataset, split = diffmem.data.read(workdir.path(root) / "data")
  options = dict(job.side["scoring"])
  sets = side_scores.references(
    dataset,
    split,
    neighbours=options["neighbours"],
    duplicate=options.pop("duplicate"),
    seed=seed,
  )
  score = functools.partial(side_scores.score, sets=sets, seed=seed, **options)
  n, scales = job.side["n"], job.side["scales"]
  methods = {}
  for method in job.side["methods"]:
    bank = job.bank(method)
    methods[method] = {
      str(scale): score(bank[i * n : (i + 1) * n])
      for i, scale in enumerate(scales)
    }
  _gallery(job, sets["members"], methods, dataset)
  clusters = job.clusters()
  return {
    "n": n,
    "scales": scales,
    "methods": job.side["methods"],
    "unguided": score(job.bank("unguided")[:]),
    "scores": methods,
    "accuracy": job.accuracy(),
    "clusters": {
      "kept": len(clusters),
      "dropped": len(clusters.dropped_sizes),
      "images": job.side["synthetic"],
      "cohesion": np.quantile(clusters.cohesion, [0, 0.5, 1]),
      "sizes": np.quantile(clusters.sizes, [0, 0.5, 1]),
      "dropped_cohesion": np.quantile(clusters.dropped_cohesion, [0, 0.5, 1])
      if len(clusters.dropped_sizes)
      else None,
    },
  }


def _own(root, seed: int) -> int:
  """Twins must not start from the same noise: a seed of each shadow's own."""
  if root.parent.name != "shadows":
    return seed
  return streams.derived(seed, "side shadow", int(root.name)) % 2**31


def _gallery(job: Job, members, methods: dict, dataset) -> None:
  """The first clusters: their images, where guidance led, what is there."""
  clusters, n = job.clusters(), job.side["n"]
  rows = []
  for k in range(len(clusters)):
    labelled = int(np.count_nonzero(clusters.labels == k))
    rows.append([k, clusters.sizes[k], f"{clusters.cohesion[k]:.4f}", labelled])
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerows([CLUSTERS, *rows])
  workdir.write_bytes(job.folder / "clusters.csv", out.getvalue().encode())
  method = job.side["methods"][0]
  scale = max(methods[method], key=lambda s: _unique(methods[method][s]))
  place = [str(s) for s in job.side["scales"]].index(scale)
  guided = job.bank(method)[place * n : (place + 1) * n]
  aims = job.aims(np.arange(n))
  count = min(job.side["gallery"], len(clusters))
  shape = (count, SHOWN, *job.denoiser.shape)
  pictures = {
    name: np.zeros(shape, np.uint8)
    for name in ("synthetic", "guided", "training")
  }
  away = np.full((count, SHOWN), np.inf)
  for k in range(count):
    own = np.flatnonzero(clusters.labels == k)
    own = own[np.argsort(-clusters.closeness[own])][:SHOWN]
    pictures["synthetic"][k, : len(own)] = job.synthetic[own]
    sent = np.flatnonzero(aims == k)
    if not len(sent):
      continue
    near, distances = side_scores.nearest(guided[sent], members)
    best = np.argsort(distances)[:SHOWN]
    pictures["guided"][k, : len(best)] = guided[sent[best]]
    found = dataset.take(members.ids[near[best]])
    pictures["training"][k, : len(best)] = found
    away[k, : len(best)] = distances[best]
  packed = io.BytesIO()
  np.savez_compressed(
    packed,
    distances=away,
    cohesion=clusters.cohesion[:count],
    sizes=clusters.sizes[:count],
    method=np.array(method),
    scale=np.array(float(scale)),
    **pictures,  # pyright: ignore[reportArgumentType]
  )
  workdir.write_bytes(job.folder / "gallery.npz", packed.getvalue())


def _unique(scores: dict) -> int:
  rates = scores["members"]["rates"]
  return next(iter(rates.values()))["ids"]["unique"]
