# SPDX-License-Identifier: Apache-2.0
"""The quality stage: generations beside real images, and held-out losses.

Reads <root>/sample and <root>/data, and <root>/train where a denoiser was
trained. Writes <root>/quality:

results.json     what `results` says
classifier.npz   weights of the small classifier, where it is the features
vectors/<set>    the features of each set of images
losses/<set>     losses of members and held-out images [n s]
done/<pair>.json numbers of one pair of sets

All but results.json is made once and goes on where a run stopped. The sets are
cut to one number, at random: what is measured depends on it. Where some images
stand in training more than once, what the model trained on, with its copies, is
a set of its own: copies alone make it unlike any images without them.
"""

import logging
import os
from typing import Any

import numpy as np

import diffmem.data
from diffmem import features, processes, store, workdir
from diffmem.arrays import Int
from diffmem.data import canaries
from diffmem.denoiser import annotated, trained
from diffmem.features import Features, weights
from diffmem.features.run import embed_set
from diffmem.progress import Progress
from diffmem.quality import losses, measure

_log = logging.getLogger(__name__)

KEYS = ("features", "images", "batch", "groups", "neighbours", "loss")
# (real, made): what is measured, and sets of real images as its floor.
PAIRS = {
  "to_training": ("training", "generations"),
  "to_members": ("members", "generations"),
  "to_held_out": ("held_out", "generations"),
  "floor": ("members", "held_out"),
  "training_to_held_out": ("held_out", "training"),
}


@processes.led
def run(
  root: str | os.PathLike, *, seed: int, quality: dict, progress: bool = True
) -> None:
  """Makes <root>/quality.

  Args:
    root: the workdir; its sample stage must have finished.
    seed: of the images that are drawn, groups and noise.
    quality: the config section, as a plain dict of KEYS.
    progress: show the rate and the time left.

  Raises:
    FileNotFoundError: there are no generations, or no data.
    ValueError: an impossible option, or images that do not fit together.
  """
  check(quality)
  meta = workdir.require(root, "sample")
  dataset, split = diffmem.data.read(workdir.path(root) / "data")
  inputs = {
    # What sample.bank.digest says.
    "bank": workdir.digest(
      [meta["config"], meta["inputs"], meta.get("pixels")]
    ),
    "split": split.digest,
    "model": _weights(root, quality),
    "features": _digest(quality["features"]["path"]),
  }
  config = {"seed": seed, "quality": quality}
  with workdir.stage(root, "quality", config=config, inputs=inputs) as stage:
    if stage.finished:
      _log.info("quality: finished before, kept (%s)", stage.folder)
      return
    job = _Job(root, stage.folder, dataset, split, seed, quality, progress)
    found = job.results()
    found["loss"] = job.losses() if inputs["model"] else None
    workdir.write_json(stage.folder / "results.json", found)
    stage.record("images", found["images"])


def check(quality: dict) -> None:
  """ValueError for sections that lack something, or ask the impossible."""
  missing = [key for key in KEYS if key not in quality]
  if missing:
    raise ValueError(f"quality has no {missing[0]!r}: set it in the config")
  name = quality["features"]["name"]
  if name not in features.FEATURES:
    features.create(name)  # names what there is
  for key in ("images", "batch"):
    if quality[key] < 2:
      raise ValueError(f"quality.{key} = {quality[key]}, expected at least 2")
  if not 2 <= quality["groups"] <= quality["images"]:
    raise ValueError(
      f"quality.groups = {quality['groups']}, expected 2 to "
      f"{quality['images']}, the most images"
    )
  for key in ("precision", "coverage"):
    if quality["neighbours"][key] < 1:
      raise ValueError(
        f"quality.neighbours.{key} = {quality['neighbours'][key]}, expected "
        "at least 1"
      )
  for key in ("times", "draws"):
    if quality["loss"] and quality["loss"][key] < 1:
      raise ValueError(
        f"quality.loss.{key} = {quality['loss'][key]}, expected at least 1"
      )


def _weights(root, quality: dict) -> str | None:
  """sha256 of the weights of a denoiser trained here, if there is one."""
  file = workdir.path(root) / "train" / "meta.json"
  if not quality["loss"] or not file.exists():
    return None
  meta = workdir.require(root, "train")
  return meta["weights"] if "diffusion" in meta["config"] else None


def _digest(path: str | None) -> str | None:
  return None if path is None else weights.digest(path)


class _Job:
  """The sets of one run: their images, vectors and losses."""

  def __init__(
    self, root, folder, dataset, split, seed: int, quality: dict, progress: bool
  ):
    self.root, self.folder, self.dataset = root, folder, dataset
    self.seed, self.quality, self.progress = seed, quality, progress
    self.bank = store.open(workdir.path(root) / "sample" / "images")
    if self.bank.shape[1:] != dataset.images.shape[1:]:
      raise ValueError(
        f"generations are {self.bank.shape[1:]}, the data "
        f"{dataset.images.shape[1:]}: bring both to one size with crop and "
        "resize"
      )
    section = quality["features"]
    # Canaries, where there are some, stand behind the images.
    self.images, rows = canaries.training(dataset, split)
    ids = {"members": split.members, "held_out": split.held_out}
    # No file of embeddings holds canaries.
    known = section["name"] != "file" or len(self.images) == len(dataset)
    if len(rows) > len(split.members) and known:
      ids["training"] = self.images.ids[rows]
    self.ids = {name: i for name, i in ids.items() if len(i)}
    sizes = self._sizes()
    self.count = min(quality["images"], *sizes.values())
    least = max(quality["groups"] - 1, *quality["neighbours"].values())
    # Of each group at most ceil(n / groups) images are left out.
    if self.count - -(-self.count // quality["groups"]) <= least:
      smallest = min(sizes, key=lambda name: sizes[name])
      raise ValueError(
        f"quality: {self.count} images of each set ({smallest} has "
        f"{sizes[smallest]}) are too few for {quality['groups']} groups and "
        f"{max(quality['neighbours'].values())} neighbours; give more images, "
        "or lower quality.groups"
      )
    self.rows = {
      name: self._drawn(size, name, self.count) for name, size in sizes.items()
    }

  def results(self) -> dict[str, Any]:
    """The numbers of each of PAIRS; None where a set is missing."""
    made, options = self._features()
    vectors = {name: self._vectors(name, made, options) for name in self.rows}
    found: dict[str, Any] = {
      "images": self.count,
      "available": self._sizes(),
      "features": {
        "name": made.name,
        "dimensions": int(vectors["members"].shape[1]),
        "info": made.info,
      },
      "neighbours": dict(self.quality["neighbours"]),
      "groups": self.quality["groups"],
    }
    for name, (real, other) in PAIRS.items():
      found[name] = None
      if real in vectors and other in vectors:
        copies = "training" in (real, other)
        found[name] = self._pair(name, vectors[real], vectors[other], copies)
    return found

  def losses(self) -> dict[str, Any] | None:
    """Of members and of held-out images, each id once."""
    options = self.quality["loss"]
    denoiser = trained.load(self.root)
    run = losses.per_image(
      denoiser, count=options["times"], draws=options["draws"], seed=self.seed
    )
    chosen = losses.times(denoiser, options["times"])
    found = {
      name: self._losses(name, denoiser, run, len(chosen))
      for name in ("members", "held_out")
      if name in self.ids
    }
    numbers = measure.losses(
      found["members"],
      found.get("held_out"),
      chosen,
      groups=self.quality["groups"],
      seed=self.seed,
    )
    return {"times": len(chosen), "draws": options["draws"]} | numbers

  def _sizes(self) -> dict[str, int]:
    sizes = {name: len(ids) for name, ids in self.ids.items()}
    return sizes | {"generations": len(self.bank)}

  def _drawn(self, size: int, name: str, most: int) -> Int[np.ndarray, " n"]:
    """Which images of a set are measured; a stream for each set."""
    rng = np.random.default_rng([self.seed, *name.encode()])
    return np.sort(rng.permutation(size)[:most])

  def _features(self) -> tuple[Features, dict[str, Any]]:
    section = self.quality["features"]
    options = {} if section["path"] is None else {"path": section["path"]}
    if section["name"] == "classifier" and not options:
      # All images of the source: the same features for any split of it.
      options = {
        **section["training"],
        "images": self.dataset.images,
        "path": self.folder / "classifier.npz",
        "progress": self.progress,
      }
    return features.create(section["name"], **options), options

  def _vectors(self, name: str, made: Features, options: dict) -> np.ndarray:
    rows = self.rows[name]
    generated = name == "generations"
    if made.name == "file":
      which = "generations" if generated else "data"
      ids = rows if generated else self.ids[name][rows]
      return features.rows(options["path"], ids, which)
    images = (
      self.bank[rows] if generated else self.images.take(self.ids[name][rows])
    )
    return embed_set(
      self.folder / "vectors" / name,
      images,
      made,
      batch=self.quality["batch"],
      of=weights.of_arrays({"images": images}),
      progress=self.progress,
    )[:]

  def _pair(self, name: str, real, other, copies: bool) -> dict[str, Any]:
    file = self.folder / "done" / f"{name}.json"
    if not file.exists():
      found = measure.measure(
        real,
        other,
        # A copy's nearest neighbours are its copies, at distance 0.
        neighbours=None if copies else self.quality["neighbours"],
        groups=self.quality["groups"],
        seed=self.seed,
      )
      file.parent.mkdir(parents=True, exist_ok=True)
      workdir.write_json(file, found)
      if "frechet_missing" in found:
        _log.warning(
          "quality: no Frechet distance: %s", found["frechet_missing"]
        )
    return workdir.read_json(file)

  def _losses(self, name: str, denoiser, run, times: int) -> np.ndarray:
    """[n s], what is missing of it made block by block."""
    ids = self.ids[name]
    ids = ids[self._drawn(len(ids), name, self.quality["images"])]
    batch = min(self.quality["batch"], len(ids))
    kept = store.create(
      self.folder / "losses" / name,
      shape=(len(ids), times),
      dtype="float32",
      chunk=batch,
    )
    missing = sorted(set(range(kept.chunks)) - set(kept.written()))
    with Progress(
      len(missing), what=f"losses {name}", unit="blocks", enabled=self.progress
    ) as bar:
      for number in missing:
        rows = kept.rows(number)
        part = ids[rows]
        # Filled up: one shape is compiled.
        full = np.pad(part, (0, batch - len(part)), mode="edge")
        cond = annotated.of_images(self.root, self.dataset, denoiser, full)
        made = run(self.dataset.take(full), cond)
        kept.write(number, made[: len(part)].astype(np.float32))
        bar.update()
    return kept[:].astype(np.float64)
