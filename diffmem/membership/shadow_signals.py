# SPDX-License-Identifier: Apache-2.0
"""One signal of many models on the same images, under the same noise.

Every model of a manifest is run on the whole pool, and on the calibration
part, which none of them was trained on. The noise is a function of the seed,
the time and the draw alone, so that models differ in nothing but themselves.
What is computed is kept in <root>/membership/signals/<model>/<signal>.
"""

import dataclasses
import logging
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

import diffmem.data
from diffmem import store, workdir
from diffmem.arrays import Bool, Float, Int
from diffmem.data import reduced
from diffmem.denoiser import Denoiser
from diffmem.membership import captioned, signals, targets
from diffmem.membership.manifest import Manifest, Model

_log = logging.getLogger(__name__)


@dataclasses.dataclass(frozen=True, eq=False)
class ModelSignals:
  """A signal of each model: [models n t ...] on disk.

  Attributes:
    models: the first axis; the main model first, if there is one.
    ids: the second axis; the pool, then the calibration part.
    inside: whether model m was trained on image n.
    stores: of each model, [n t ...].
  """

  models: tuple[Model, ...]
  ids: Int[np.ndarray, " n"]
  inside: Bool[np.ndarray, "m n"]
  stores: tuple[store.Store, ...]

  @property
  def shape(self) -> tuple[int, ...]:
    """[models n t ...]."""
    return (len(self.stores), *self.stores[0].shape)

  def values(self) -> Float[np.ndarray, "m n t ..."]:
    """All of it in memory."""
    return np.stack([kept[:] for kept in self.stores])

  def reduced(
    self, function: Callable[[np.ndarray], np.ndarray]
  ) -> Float[np.ndarray, "m n ..."]:
    """function(values [b t ...]) of all blocks of images, one at a time."""
    found = []
    for kept in self.stores:
      parts = [np.asarray(function(block)) for _, block in kept.blocks()]
      found.append(np.concatenate(parts))
    return np.stack(found)


def compute(
  manifest: Manifest,
  signal: signals.Signal,
  *,
  t: Sequence[int],
  batch: int = 512,
  progress: bool = True,
  **options: Any,
) -> ModelSignals:
  """The signal of every model, or what is still missing of it.

  Args:
    manifest: which models.
    signal: what to compute, such as `loss.SIGNAL`.
    t: schedule indices, 0 the least noise.
    batch: images at a time.
    progress: show the rate and the time left.
    **options: those of the signal, with the seed of its noise.

  Raises:
    ValueError: what is kept was computed with other options, or is damaged.
    FloatingPointError: a value is not finite; names the ids.
  """
  dataset, _ = diffmem.data.read(manifest.root / "data")
  calibration = manifest.split.calibration
  ids = np.concatenate([manifest.pool, calibration])
  outside = np.zeros(len(calibration), bool)
  inside = [np.append(model.inside, outside) for model in manifest.models]
  made_of = check(manifest, signal, t=t, batch=batch, **options)
  folders = _folders(manifest)
  stores, template = [], None
  for n, model in enumerate(manifest.models):
    path = folders[model.name] / signal.name
    if not _complete(path):
      _log.info(
        "membership: %s of %s (%d of %d)",
        signal.name,
        model.name,
        n + 1,
        len(manifest.models),
      )
      template = _load(model, template)
      dataset = reduced.fitted_dataset(dataset, template.shape[0])
      path.parent.mkdir(parents=True, exist_ok=True)
      workdir.write_json(_beside(path), _record(made_of, model))
      signals.compute(
        template,
        captioned.sized(dataset.take(ids), template),
        signal,
        t=t,
        batch=batch,
        cond=captioned.of_images(manifest.root, dataset, template, ids),
        ids=ids,
        path=path,
        progress=progress,
        **options,
      )
    stores.append(store.open(path))
  return ModelSignals(manifest.models, ids, np.stack(inside), tuple(stores))


def check(
  manifest: Manifest,
  signal: signals.Signal,
  *,
  t: Sequence[int],
  batch: int,
  **options: Any,
) -> dict[str, Any]:
  """Refuses signals that are kept of something else; arguments of `compute`.

  Returns what they would be of, the weights left out.
  """
  ids = np.concatenate([manifest.pool, manifest.split.calibration])
  made_of = {
    "signal": signal.name,
    "t": list(t),
    **options,
    "batch": batch,
    "dataset": manifest.dataset,
    "images": workdir.digest(ids),
  }
  for model in manifest.models:
    folder = _folders(manifest)[model.name]
    _check_kept(folder, signal.name, _record(made_of, model))
  return made_of


def _folders(manifest: Manifest) -> dict[str, Any]:
  parent = manifest.root / "membership" / "signals"
  return {model.name: parent / model.name for model in manifest.models}


def _load(model: Model, template: Denoiser | None) -> Denoiser:
  """The model; with the functions of an earlier one, whose programs it runs."""
  loaded = targets.load(model.folder)
  if template is None:
    return loaded
  return dataclasses.replace(template, params=loaded.params, eps=None)


def _record(made_of: dict, model: Model) -> dict:
  return workdir.plain({**made_of, "weights": model.weights})


def _beside(path):
  return path.parent / f"{path.name}.json"


def _complete(path) -> bool:
  if not (path / "zarr.json").exists():
    return False
  return store.open(path).complete()


def _check_kept(folder, name: str, record: dict) -> None:
  """Refuses values that were computed of something else."""
  file = folder / f"{name}.json"
  if not file.exists():
    return
  found = workdir.difference(workdir.read_json(file), record)
  if found is not None:
    key, was, now = found
    raise ValueError(
      f"{folder / name} was computed with {key} = {was!r}, this run has "
      f"{now!r}; use another --workdir, or delete {folder.parent} to compute "
      "it anew"
    )
