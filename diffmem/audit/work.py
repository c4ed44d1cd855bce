# SPDX-License-Identifier: Apache-2.0
"""How much work an experiment is, counted from its config; nothing is run.

  train       images = steps * batch, each worth three network calls
  shadows     the same for every shadow model
  sample      calls = images * steps, twice as many under guidance
  distances   pairs = queries * references, 2 d operations each; of a query
              k (1 + ln(m / k)) references come below its running k-th, if
              their order is random: what is selected among
  membership  calls = attacks' calls an image * images * models, and on the
              host the resampled scores behind every interval

Stages that are not priced are named (`unpriced`), never left out in silence.
"""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import jax

from diffmem.audit import network
from diffmem.data import sources
from diffmem.denoiser import Denoiser, trained
from diffmem.distances import knn
from diffmem.membership import shadowed, stored
from diffmem.report.plan import Work
from diffmem.train import stages

STATES = 4  # trees of weights in a checkpoint: weights, EMA, two moments
KEPT = 2  # checkpoints
PASSES = 12  # reads and writes of every weight in a step: Adam, clip, EMA
PRICED = ("train", "sample", "distances", "membership")
FREE = ("seed", "data", "models", "diffusion", "upsamplers", "report", "plan")


@dataclasses.dataclass(frozen=True)
class Part:
  """One network of the experiment.

  Attributes:
    name: "base", or "upsampler 0" and so on; part of the jobs' names.
    shape: (h, w, c) of what it denoises.
    sections: that train it.
    model: the network. cost: of its call.
  """

  name: str
  shape: tuple[int, int, int]
  sections: stages.Sections
  model: Any
  cost: network.Counted

  def denoiser(self, params: Any) -> Denoiser:
    """What samplers and attacks see of it."""
    assert self.sections.diffusion is not None
    sections = self.sections.models, self.sections.diffusion
    return trained.build(self.shape, *sections, params)

  def job(self, kind: str) -> str:
    """The name of a rate."""
    return f"{kind} {self.name}"

  def calls(self, count: int) -> dict[str, Any]:
    """Fields of the work of so many calls on one image each."""
    return {
      "units": {"calls": float(count)},
      "flops": self.cost.flops * count,
      "kind": self.cost.dtype,
      "moved": self.cost.moved * count,
    }


def size(images: str | None, data: dict) -> tuple[int, tuple[int, int, int]]:
  """(how many, (h, w, c)) of the source; `images` says it unread, NxHxWxC.

  Raises:
    ValueError: a text of another form, or a source that cannot be read.
  """
  if images is not None:
    try:
      n, h, w, c = (int(part) for part in images.split("x"))
    except ValueError:
      n, h, w, c = 0, 0, 0, 0
    if min(n, h, w, c) < 1:
      raise ValueError(
        f"--images={images}: expected NxHxWxC, say 50000x32x32x3"
      )
    return n, (h, w, c)
  try:
    found = sources.load(
      data["source"],
      crop=data["crop"],
      resize=data["resize"],
      filter=data["filter"],
      folder=data["data_dir"],
    )
  except (OSError, ValueError, ImportError) as e:
    raise ValueError(
      f"{e}; or say what the source holds: --images=50000x32x32x3"
    ) from e
  h, w, c = found.images.shape[1:]
  return len(found.images), (h, w, c)


def parts(config: dict, shape: Sequence[int]) -> list[Part]:
  """The networks that the config trains, the base first.

  Raises:
    ValueError: a config that trains no denoiser.
  """
  check(config)
  found = []
  upsamplers = config.get("upsamplers") or ()
  names = ["base", *(f"upsampler {i}" for i in range(len(upsamplers)))]
  for i, name in enumerate(names):
    data = {**config["data"], "upsampler": i - 1 if i else None}
    part = stages.sections(
      data, config["models"], config["diffusion"], config["train"], upsamplers
    )
    side = stages.reduced_shape(shape, part.height)
    model = trained.network(side, part.models, part.diffusion or {})
    cost = network.count(model, part.models["dtype"])
    found.append(Part(name, side, part, model, cost))
  return found


def check(config: dict) -> None:
  """Refuses configs whose training is not priced."""
  missing = [
    name
    for name in ("data", "models", "diffusion", "train")
    if config.get(name) is None
  ]
  if missing:
    raise ValueError(
      f"the config has no section {missing[0]!r}: what is planned is an "
      "experiment that trains a denoiser (sections data, models, diffusion, "
      f"train), or a section 'plan'; it has {', '.join(config)}"
    )
  if config["train"].get("privacy") is not None:
    raise ValueError(
      "train.privacy: steps of DP-SGD are not priced, set train.privacy=None "
      "and multiply (docs/performance.md has what they cost)"
    )


def count(config: dict, n: int, found: Sequence[Part]) -> list[Work]:
  """The work of every stage of the config that is priced, in order.

  Args:
    config: plain sections.
    n: images in the source.
    found: of `parts`.
  """
  sets = _sets(config["data"]["split"], n)
  works = _training(config, found)
  made = 0
  if "sample" in config and _main(config):
    made, sampling = _sampling(config, found)
    works += sampling
  if made and config.get("distances"):
    works.append(_distances(config["distances"], found[-1], made, sets))
  if config.get("membership"):
    works += _membership(config, found[0], sum(sets.values()), made)
  return works


def unpriced(config: dict) -> list[str]:
  """Sections that no work stands for."""
  names = (*PRICED, *FREE)
  found = {k: v for k, v in config.items() if k not in names and v is not None}
  if found.get("features", {}).get("name") is None:
    found.pop("features", None)  # a second distance that nobody wants
  return list(found)


def _sets(split: dict, n: int) -> dict[str, int]:
  """Images of each set; of a published split, half and two quarters."""
  if split["members"] is None:
    return {"members": n // 2, "held_out": n // 4, "calibration": n // 4}
  found = {k: split[k] for k in ("members", "held_out", "calibration")}
  if split["shadow"] is not None:  # half of the pool each
    pool = found["members"] + found["held_out"]
    found |= {"members": pool // 2, "held_out": pool - pool // 2}
  return found


def _main(config: dict) -> bool:
  """Whether there is a model beside the shadows; one shadow is one."""
  split = config["data"]["split"]
  return split["members"] != 0 or split["shadow"] is not None


def _training(config: dict, found: Sequence[Part]) -> list[Work]:
  split = config["data"]["split"]
  works = []
  if _main(config):
    alone = found if split["shadow"] is None else found[:1]
    works += [_trained("train", part, 1) for part in alone]
  if split["shadows"] and split["shadow"] is None:
    works.append(_trained("shadows", found[0], split["shadows"]))
  return works


def _trained(stage: str, part: Part, models: int) -> Work:
  train, cost = part.sections.train, part.cost
  images = models * train["steps"] * train["batch"]
  weights = 4.0 * cost.params
  what = f"{train['steps']:,} steps of {train['batch']:,} images"
  if models > 1:
    what = f"{models} x {what}"
  if part.name != "base":
    what += f", {part.name}"
  return Work(
    stage,
    what,
    job=part.job("train"),
    units={"images": float(images)},
    flops=network.TRAINING * cost.flops * images,
    kind=cost.dtype,
    moved=network.TRAINING * cost.moved * images
    + models * train["steps"] * PASSES * weights,
    memory=((STATES + 1) * weights, cost.kept * train["batch"]),
    disk=models * KEPT * STATES * weights,
  )


def _sampling(config: dict, found: Sequence[Part]) -> tuple[int, list[Work]]:
  """(images made, the work of each network)."""
  sample = config["sample"]
  n = sample["n"]
  if n is None:
    chosen = config.get("choose") or {}
    kinds = ("duplicated", "outliers", "ordinary")
    prompts = sum(chosen.get(kind) or 0 for kind in kinds)
    if not prompts:
      raise ValueError(
        "sample.n=None and no prompts are chosen: set sample.n to plan for it"
      )
    n = prompts * sample["per_prompt"]
  chains = [sample, *(sample.get("upsamplers") or ())]
  works = []
  for part, chain in zip(found, chains, strict=False):
    calls = chain["steps"] * (1 if chain["guidance"] == 1.0 else 2)
    what = f"{n:,} images x {calls:,} network calls"
    if part.name != "base":
      what += f", {part.name}"
    works.append(
      Work(
        "sample",
        what,
        job=part.job("sample"),
        memory=(
          4.0 * part.cost.params + part.cost.alive * min(sample["batch"], n),
          0.0,
        ),
        disk=float(n * math.prod(part.shape)) if part is found[-1] else 0.0,
        **part.calls(n * calls),
      )
    )
  return n, works


def _distances(
  distances: dict, part: Part, made: int, sets: dict[str, int]
) -> Work:
  """As in audit.stages.find_neighbours."""
  searches = [(made, m) for m in sets.values() if m]
  searches += [
    (m, sets["members"]) for m in (sets["members"], sets["held_out"])
  ]
  twice = 2 if distances["mirror"] else 1
  pairs = twice * sum(n * m for n, m in searches)
  d = math.prod(part.shape)
  rows = min(distances["block"], knn.ROWS // d)
  return Work(
    "distances",
    f"{made:,} queries and the sets among themselves, {pairs:.3g} pairs",
    job="distances",
    units={
      "candidates": twice
      * math.fsum(n * candidates(distances["k"], m) for n, m in searches),
      "pairs": float(pairs),
    },
    flops=2.0 * d * pairs,
    kind="int8",
    moved=8.0 * pairs,  # products in int32, written once and read once
    memory=(
      float(min(knn.HOLD, d * sum(sets.values())))
      + 4.0 * rows * knn.TILE["device"],
      0.0,
    ),
    disk=16.0 * sum(n * min(distances["k"], m) for n, m in searches),
  )


def candidates(k: int, m: int) -> float:
  """References of m that are expected below a query's running k-th."""
  k = min(k, m)
  return k * (1 + math.log(m / k))


def _membership(config: dict, part: Part, images: int, made: int) -> list[Work]:
  """Network calls of every attack, and the statistics behind its numbers."""
  membership, seed = config["membership"], config["seed"]
  split = config["data"]["split"]
  plan = stored.plan(membership, seed)
  denoiser = part.denoiser(jax.eval_shape(part.model.init, jax.random.key(0)))
  shadows = split["shadows"] if split["shadow"] is None else 0
  main = _main(config)
  targets = 1 if main else shadows
  each = {want.signal.name: want for want in plan}  # shared ones count once
  calls = sum(w.queries for w in each.values()) * images * targets
  disk = targets * images * sum(_values(denoiser, w) for w in each.values())
  scores = targets * images * sum(_curves(w) for w in plan)
  if main and made:
    generated = min(membership["generated"] or 0, made)
    calls += sum(w.queries for w in each.values()) * generated
  attacks = membership["shadow_attacks"]
  if attacks:
    losses = stored.wanted(stored.base(membership), membership, seed, plan)
    planned = shadowed.plan(membership, losses)
    more = shadows if main else 0  # else they are the targets above
    calls += losses.queries * images * more
    disk += more * images * _values(denoiser, losses)
    times = len(losses.times) + 2
    curves = sum(times + _draws(p.draws, len(p.views)) for p in planned)
    scores += shadows * images * curves
  gradients = membership["gradients"]
  if gradients is not None:
    asked = gradients["times"] * gradients["draws"]
    calls += network.TRAINING * asked * images * shadows
  batch = min(membership["batch"], images)
  return [
    Work(
      "membership",
      f"{calls:,.0f} network calls on one image",
      job=part.job("membership"),
      memory=(4.0 * part.cost.params, part.cost.alive * batch),
      disk=4.0 * disk,
      **part.calls(calls),
    ),
    Work(
      "membership",
      f"statistics of {scores:,.0f} scores, {membership['bootstrap']:,} "
      "resamples",
      job="statistics",
      units={"scores": float(scores)},
      divided=False,
    ),
  ]


def _values(denoiser: Denoiser, want: stored.Wanted) -> int:
  """Numbers of one image that are stored."""
  return math.prod(want.signal.shape(denoiser, t=want.times, **want.of_signal))


def _curves(want: stored.Wanted) -> int:
  """ROCs with intervals: each time, two thresholds, fewer draws."""
  draws = want.of_signal.get("draws")
  fewer = 0
  if draws is not None and "augment" in want.of_signal:
    fewer = _draws(draws, len(want.of_signal["augment"]))
  return len(want.times) + 2 + fewer


def _draws(draws: int, views: int) -> int:
  return min(views, 2) * (max(draws - 1, 0).bit_length() + 1)
