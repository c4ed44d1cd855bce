# SPDX-License-Identifier: Apache-2.0
"""The measures stage: memorization over labels, training set sizes and time.

It trains models of its own, alike but for what is varied, with `repeats` seeds
(labels: `divergence`; sizes and time: `agreement`). Writes <root>/measures:

results.json  what `measures_results.summary` says
models/       their workdirs, of which finished ones are not trained again
sources/      the data with other labels
done/<piece>.npz  what was measured of one model or pair, per image;
  whole files: a run goes on where an earlier one stopped
"""

import io
import logging
import os
from collections.abc import Callable

import numpy as np

from diffmem import processes, workdir
from diffmem.data import Split, prepared, splits
from diffmem.extraction import agreement, divergence, measures_results
from diffmem.extraction.measures_models import Models, Trained, relabelled
from diffmem.progress import Progress

_log = logging.getLogger(__name__)

NONE = "none"  # the model without labels, which the others are compared with


@processes.led
def run(
  root: str | os.PathLike,
  *,
  seed: int,
  data: dict,
  models: dict,
  diffusion: dict,
  train: dict,
  measures: dict,
  progress: bool = True,
) -> None:
  """Makes <root>/measures.

  Args:
    root: the workdir.
    seed: repeat r has the seed `seed * repeats + r`.
    data, models, diffusion, train: the config sections, as plain dicts; of
      the split, the sizes of members and held_out are those of `measures`.
    measures: the config section.
    progress: show the rate and the time left.

  Raises:
    ValueError: an option, or data, that cannot be used.
  """
  _check(measures)
  sections = dict(data=data, models=models, diffusion=diffusion, train=train)
  config = {"seed": seed, **sections, "measures": measures}
  with workdir.stage(root, "measures", config=config) as stage:
    if stage.finished:
      _log.info("measures: finished before, kept (%s)", stage.folder)
      return
    job = _Job(stage.folder, seed, sections, measures)
    pieces = job.pieces()
    with Progress(
      len(pieces), what="measures", unit="models and pairs", enabled=progress
    ) as bar:
      for name, make in pieces.items():
        job.keep(name, make)
        bar.update(1)
    results = measures_results.summary(
      job.labels(),
      job.sizes(),
      measures,
      dimensions=job.dataset.images[0].size,
      seed=seed,
    )
    workdir.write_json(stage.folder / "results.json", results)


def _check(measures: dict) -> None:
  for name in ("repeats", "generated", "points", "bootstrap", "batch"):
    if measures[name] < 1:
      raise ValueError(
        f"measures.{name} = {measures[name]}, expected at least 1"
      )
  if not 0 < measures["ratio"] < 1:
    raise ValueError(
      f"measures.ratio = {measures['ratio']}, expected a number in (0, 1)"
    )
  if any(n < 2 for n in measures["sizes"]):
    raise ValueError(
      f"measures.sizes = {measures['sizes']}, expected 2 images or more each"
    )


class _Job:
  """The pieces of work, each kept in a file of its own."""

  def __init__(self, folder, seed: int, sections: dict, measures: dict):
    self.folder, self.measures = folder, measures
    self.seeds = [
      seed * measures["repeats"] + r for r in range(measures["repeats"])
    ]
    self.done = folder / "done"
    self.data = sections["data"]
    settings = {key: self.data[key] for key in prepared.SETTINGS}
    self.dataset = prepared.open_source(**settings)
    steps = sections["train"]["steps"]
    watched = {
      "preview_every": -(-steps // measures["points"]),
      "checkpoint_every": steps,  # a struck training is looked at anew
    }
    self.steps = steps
    self.models = Models(
      folder / "models",
      **sections | {"train": sections["train"] | watched},
      sampler=measures["sampler"],
      batch=measures["batch"],
      shape=self.dataset.images.shape[1:],
    )

  def pieces(self) -> dict[str, Callable]:
    """Name -> what makes its arrays."""
    kinds = [NONE, *self.measures["labels"]["kinds"]]
    found = {}
    for seed in self.seeds:
      for kind in kinds:
        name = f"labels_{kind}_{seed}"
        found[name] = lambda k=kind, s=seed: self._labels(k, s)
      for n in self.measures["sizes"]:
        found[f"size_{n}_{seed}"] = lambda n=n, s=seed: self._size(n, s)
    return found

  def keep(self, name: str, make: Callable) -> None:
    """Makes a piece that is missing."""
    file = self.done / f"{name}.npz"
    if file.exists():
      return
    buffer = io.BytesIO()
    np.savez(buffer, **make())
    file.parent.mkdir(parents=True, exist_ok=True)
    workdir.write_bytes(file, buffer.getvalue())

  def read(self, name: str) -> dict[str, np.ndarray]:
    """The arrays of a piece."""
    content = (self.done / f"{name}.npz").read_bytes()
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
      return dict(arrays)

  def labels(self) -> dict[str, list[dict[str, np.ndarray]]]:
    """Kind -> its pieces, one a seed."""
    kinds = [NONE, *self.measures["labels"]["kinds"]]
    return {
      k: [self.read(f"labels_{k}_{s}") for s in self.seeds] for k in kinds
    }

  def sizes(self) -> dict[int, list[dict[str, np.ndarray]]]:
    """Size -> its pieces, one a seed."""
    return {
      n: [self.read(f"size_{n}_{s}") for s in self.seeds]
      for n in self.measures["sizes"]
    }

  def _labels(self, kind: str, seed: int) -> dict[str, np.ndarray]:
    """Densities of members and held-out images, and ratios of generations."""
    options = self.measures["labels"]
    split = {key: options[key] for key in ("members", "held_out")}
    source, classes = None, None
    if kind != NONE:
      folder = self.folder / "sources" / str(seed)
      drawn = self._split(seed, split)
      source, classes = relabelled(folder, kind, self.dataset, drawn, seed)
    model = self.models.train(
      f"labels_{kind}_{seed}",
      seed=seed,
      split=split,
      source=source,
      num_classes=classes,
    )
    members = model.split.members
    rows = np.arange(self.measures["generated"]) % len(members)
    made = self.models.sample(
      model.denoiser, len(rows), seed, model.cond(members[rows])
    )
    found = {"ratios": agreement.ratios(made, model.images(members))}
    for name, ids in (("members", members), ("held_out", model.split.held_out)):
      if name == "held_out" and kind == "unique":
        continue  # its labels mean nothing there
      found |= self._densities(model, ids, name, seed)
    return found

  def _densities(
    self, model: Trained, ids, name: str, seed: int
  ) -> dict[str, np.ndarray]:
    options = self.measures["labels"]
    keys = ("blur", "draws", "levels", "probes")
    batch = self.measures["batch"]
    density = self.models.once(
      "density",
      model.denoiser,
      lambda d: divergence.densities(
        d, **{key: options[key] for key in keys}, batch=batch
      ),
    )
    bound = self.models.once(
      "bound",
      model.denoiser,
      lambda d: divergence.bounds(d, variance=options["variance"], batch=batch),
    )
    given = (model.denoiser.params, model.images(ids), seed, model.cond(ids))
    return {name: density(*given), f"{name}_bound": bound(*given)}

  def _size(self, n: int, seed: int) -> dict[str, np.ndarray]:
    """Two models of disjoint halves of 2n images, from the same noise."""
    name = f"size_{n}_{seed}"
    split = {"members": 0, "held_out": 2 * n, "shadows": 2}
    count, ratio = self.measures["generated"], self.measures["ratio"]
    found, made, halves = {}, [], []
    for half in (0, 1):
      seen = self.folder / "models" / name / "watched" / str(half)
      seen.mkdir(parents=True, exist_ok=True)
      drawn = self._split(seed, split | {"shadow": half})
      images = self.dataset.take(drawn.members)

      def watch(sample, step, images=images, seen=seen):
        found = agreement.ratios(sample(count, seed), images)
        share = float((found < ratio).mean())
        workdir.write_json(seen / f"{step:08d}.json", {"share": share})

      model = self.models.train(
        name, seed=seed, split=split | {"shadow": half}, watch=watch
      )
      made.append(self.models.sample(model.denoiser, count, seed))
      halves.append(model.images(model.split.members))
      found[f"ratios_{half}"] = agreement.ratios(made[half], halves[half])
      files = sorted(seen.glob("*.json"))
      earlier = {int(f.name[:8]): workdir.read_json(f)["share"] for f in files}
      earlier[self.steps] = float((found[f"ratios_{half}"] < ratio).mean())
      found["steps"] = np.array(sorted(earlier))
      found[f"shares_{half}"] = np.array([earlier[s] for s in sorted(earlier)])
    found |= agreement.agreement(made[0], made[1], (halves[0], halves[1]))
    return found

  def _split(self, seed: int, sizes: dict) -> Split:
    whole = self.data["split"] | sizes
    return splits.split(self.dataset, seed=seed, **whole)
