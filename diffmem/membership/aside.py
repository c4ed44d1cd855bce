# SPDX-License-Identifier: Apache-2.0
"""What the membership stage tells beside its attacks.

The blind classifier and generated images (controls that need more than
scores), the easiest and hardest images, earlier checkpoints, and extraction.
Whatever is missing for one of these is said, and stops nothing.
"""

import csv
import io
from typing import Any

import numpy as np

from diffmem import workdir
from diffmem.arrays import UInt8
from diffmem.data import reduced, streams
from diffmem.membership import (
  blind,
  by_step,
  captioned,
  controls,
  images,
  joined,
  stored,
  targets,
)
from diffmem.membership.scene import Scene
from diffmem.membership.single import Result
from diffmem.sample import bank as banks


def bank(root, scene: Scene, count: int) -> UInt8[np.ndarray, "g h w c"] | str:
  """The first generations of the workdir's bank, or why there are none."""
  if not count:
    return "membership.generated = 0"
  if scene.main is None:
    return "there is no model but the shadows"
  try:
    workdir.require(root, "sample")
    opened = banks.open_bank(root)
  except (FileNotFoundError, ValueError) as e:
    return str(e)
  shape = scene.dataset.images.shape[1:]
  made = np.asarray(opened[: min(count, len(opened))])
  made = reduced.fitted(made, shape[0])
  if made.shape[1:] != shape:
    return f"generations {opened.shape[1:]} are of another shape"
  return made


def inputs(root, count: int) -> dict[str, str]:
  """Hashes of what other stages left, as far as it is read here."""
  found = {}
  for name in ("sample",) * bool(count) + ("extraction",):
    file = workdir.path(root) / name / "meta.json"
    if file.exists():
      meta = workdir.read_json(file)
      if meta.get("status") == "finished":
        made = [meta.get("config"), meta.get("inputs")]
        found[name] = workdir.digest(made)
  return found


def blind_control(
  scene: Scene, options: dict, bootstrap: int, seed: int
) -> dict[str, Any]:
  """The classifier that never sees the model, on members and held-out images.

  With no model but shadows, on the halves of all their pairs.
  """
  inside = scene.design.inside[::2]
  there = scene.pool & (scene.parts.copies <= 1)
  rows = np.flatnonzero(there)
  if len(rows) > options["images"]:
    order = streams.permutation(len(rows), seed, "membership blind")
    rows = np.sort(rows[order[: options["images"]]])
  inside = inside[:, rows]
  few = int(min(inside.sum(1).min(), (~inside).sum(1).min()))
  if few < options["folds"]:
    return {
      "passes": None,
      "says": f"A class has {few} images, too few for the blind classifier.",
    }
  return blind.control(
    scene.dataset.take(scene.ids[rows]),
    inside,
    components=options["components"],
    trees=options["trees"],
    folds=options["folds"],
    bootstrap=bootstrap,
    seed=seed,
  )


def generated_control(
  root,
  scene: Scene,
  attacks: list[tuple[stored.Wanted, Result]],
  generations: UInt8[np.ndarray, "g h w c"] | str,
  *,
  batch: int,
  bootstrap: int,
  seed: int,
  progress: bool,
) -> dict[str, Any]:
  """Generated images as a third class, under every attack without shadows."""
  if isinstance(generations, str):
    return {"skipped": generations}
  denoiser = targets.load(root)
  cond = captioned.of_bank(
    root, scene.dataset, denoiser, banks.open_bank(root), len(generations)
  )
  assert scene.main is not None
  assert scene.main.main is not None
  made = workdir.require(root, "sample")
  found = {}
  for want, result in attacks:
    values = stored.of_generated(
      root,
      want,
      denoiser,
      captioned.sized(generations, denoiser),
      cond=cond,
      batch=batch,
      weights=scene.main.main.weights,
      bank=workdir.digest([made["config"], made["inputs"]]),
      progress=progress,
    )
    scores = want.scores(values, result.fitted[0])[:, result.row]
    member, other = result.design.pairs(result.scores, result.design.report)
    found[want.name] = controls.generated(
      scores, other, member, result.cut, bootstrap=bootstrap, seed=seed
    )
  return found


def parts(scene: Scene) -> dict[str, Any]:
  """How many images are used for what."""
  found = scene.parts
  planted = found.report & (found.copies > 1)
  return {
    "choose": scene.design.counts(found.choose),
    "report": scene.design.counts(scene.design.report),
    "planted": int(planted.sum()),
    "calibration": int(found.calibration.sum()),
    "models": len(scene.design.inside),
  }


def strongest(found: list[Result]) -> Result:
  """An attack with shadows if there is one, else the first that was named.

  Never the best of them: that would be chosen on the reported images.
  """
  shadow = [one for one in found if one.numbers["kind"] == "shadow"]
  lira = [one for one in shadow if one.numbers["attack"] == "lira"]
  return (lira or shadow or found)[0]


def gallery(
  folder,
  scene: Scene,
  found: list[Result],
  *,
  count: int,
  neighbours: int,
  most: int,
) -> dict[str, Any]:
  """Easiest and hardest images; writes gallery.npz."""
  one, pool = strongest(found), scene.pool
  size = int(pool.sum())
  report = one.design.report[:size]
  if scene.main is not None and one.numbers["kind"] != "shadow":
    report = scene.parts.report[:size]  # planted ones too
  member, other = images.sided(
    one.scores[:, :size], one.design.inside[:, :size], report
  )
  numbers, arrays = images.describe(
    one.name,
    member,
    other,
    scene.ids[pool],
    scene.parts.copies[pool],
    scene.dataset.take(scene.ids[pool]),
    count=count,
    neighbours=neighbours,
    most=most,
  )
  packed = io.BytesIO()
  np.savez_compressed(packed, **dict[str, Any](arrays))
  workdir.write_bytes(folder / "gallery.npz", packed.getvalue())
  return numbers


def steps(
  scene: Scene,
  plan: list[stored.Wanted],
  found: list[Result],
  *,
  wanted: bool,
  batch: int,
  bootstrap: int,
  seed: int,
  progress: bool,
) -> dict[str, Any]:
  """The loss attack on earlier checkpoints, where it is asked for."""
  named = [
    (want, one)
    for want, one in zip(plan, found, strict=False)
    if want.name in stored.BASES
  ]
  if not wanted or not named:
    bases = " or ".join(map(repr, stored.BASES))
    why = "membership.by_step is off" if named else f"{bases} is not attacked"
    return {"skipped": why}
  want, one = named[0]
  return by_step.run(
    scene,
    want,
    int(want.times[one.row]),
    batch=batch,
    bootstrap=bootstrap,
    seed=seed,
    progress=progress,
  )


def joined_with_extraction(
  root, scene: Scene, found: list[Result], *, bootstrap: int, seed: int
) -> dict[str, Any]:
  """For every attack on the workdir's model: how extracted members score."""
  if scene.main is None:
    return {"skipped": "there is no model but the shadows"}
  ids = joined.extracted(root)
  if ids is None:
    return {"skipped": "the extraction stage has not finished"}
  rows = np.flatnonzero((scene.parts.copies > 0) & scene.parts.report)
  taken = np.isin(scene.ids[rows], ids)
  result: dict[str, Any] = {}
  for one in found:
    own = one.numbers.get("main")
    scores = one.scores[0] if own is None else own["scores"]
    result[one.name] = joined.join(
      scores[rows],
      taken,
      scene.parts.copies[rows],
      bootstrap=bootstrap,
      seed=seed,
    )
  return result


def mean_scores_csv(scene: Scene, found: list[Result]) -> str:
  """One line an image of a pool of shadows: its mean scores, in and out."""
  size = int(scene.pool.sum())
  columns = {}
  every = np.ones(size, bool)
  for one in found:
    inside = one.design.inside[:, :size]
    sides = images.sided(one.scores[:, :size], inside, every)
    columns |= dict(
      zip((f"{one.name}_in", f"{one.name}_out"), sides, strict=True)
    )
  out = io.StringIO()
  writer = csv.writer(out, lineterminator="\n")
  writer.writerow(["id", "used", *columns])
  for i in range(size):
    used = "choose" if scene.parts.choose[i] else "report"
    values = (f"{column[i]:.9g}" for column in columns.values())
    writer.writerow([scene.ids[i], used, *values])
  return out.getvalue()
