# SPDX-License-Identifier: Apache-2.0
"""Rates of this machine: short runs of several sizes, measured and kept.

  train       steps of the config's own network on random images
  sample      its sampler, a few steps of each block
  membership  the loss signal of its base
  distances   the exact search among random images
  statistics  numbers and controls of an attack, on random scores

Every size is run once, which also compiles, then TURNS times in alternation;
the medians of the turns are fitted (`plan.fit`), by the clock and in CPU
seconds of the process, which a busy machine disturbs less. A batch whose call
would be above CALL operations is made smaller, and said to be. Random images
search like real ones: which reference comes below a query's running k-th does
not depend on distances, if their order is random.

A rate is of all devices of this process together. <root>/plan/rates.json
keeps them, and is read again while network, options and machine stay.
"""

import dataclasses
import datetime
import logging
import math
import os
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

import diffmem
from diffmem import keys, mesh, workdir
from diffmem.audit import network, work
from diffmem.audit.work import Part
from diffmem.distances import knn
from diffmem.membership import controls, evaluate, loss, signals
from diffmem.report.plan import Fit, Rate, Units, fit
from diffmem.sample import chain
from diffmem.train import run as training

_log = logging.getLogger(__name__)

SIZES = (1, 2, 4)  # of a job, in its smallest
BEYOND = 8  # how far beyond the largest a rate is tested
TURNS = 3
RUN = 4e9  # operations of the smallest size, about
CALL = 1e11  # operations of a call, at most
STEPS = 4  # of a sampler
SIDES = {True: 8192, False: 4096}  # queries, references: of up to 1,024 values


@dataclasses.dataclass(frozen=True, eq=False)
class Job:
  """Something that can be run at any size.

  Attributes:
    name: as the works name it. of: what is run, in words.
    sizes: units to be measured, ascending.
    beyond: units of BEYOND times the work of the largest.
    run: does so much, and waits for it.
  """

  name: str
  of: str
  sizes: tuple[Units, ...]
  beyond: Units
  run: Callable[[Units], None]


@dataclasses.dataclass(frozen=True)
class Known:
  """Rates by job, and where they come from in words."""

  rates: dict[str, Rate]
  says: str


def known(
  root: str | os.PathLike, *, config: dict, parts: Sequence[Part]
) -> Known:
  """The rates kept in the workdir, or measured now."""
  file = workdir.path(root) / "plan" / "rates.json"
  key = _key(config, parts)
  if file.exists():
    kept = workdir.read_json(file)
    if kept.get("key") == key:
      rates = {name: _read(rate) for name, rate in kept["rates"].items()}
      return Known(rates, f"{kept['says']} (kept in {file})")
  start = time.monotonic()
  rates = {}
  for build in builders(config, parts):
    job = build()
    _log.info("plan: measuring %s", job.name)
    rates[job.name] = measure(job)
  now = datetime.datetime.now(datetime.UTC).isoformat(timespec="minutes")
  where = ", ".join(f"{k} {v}" for k, v in workdir.hardware().items())
  says = f"measured here in {time.monotonic() - start:.0f} s on {now}: {where}"
  file.parent.mkdir(parents=True, exist_ok=True)
  plain = {name: dataclasses.asdict(rate) for name, rate in rates.items()}
  workdir.write_json(file, {"key": key, "says": says, "rates": plain})
  return Known(rates, says)


def measure(job: Job) -> Rate:
  """Runs the job at its sizes and fits what they took."""
  first = [_timed(job, units) for units in job.sizes]
  return fitted(job, first, turns(job, job.sizes))


def beyond(job: Job) -> tuple[Rate, list[tuple[float, float]]]:
  """A rate, and (predicted, measured) seconds of a run BEYOND its sizes.

  By the clock, then CPU seconds; the long run takes its turns with the short.
  """
  first = [_timed(job, units) for units in job.sizes]
  _timed(job, job.beyond)  # its shapes are compiled
  *times, last = turns(job, (*job.sizes, job.beyond))
  rate = fitted(job, first, times)
  return rate, [
    (of.seconds(job.beyond), last[i])
    for i, of in ((0, rate.wall), (1, rate.cpu))
  ]


def turns(job: Job, sizes: Sequence[Units]) -> list[tuple[float, float]]:
  """(wall, CPU) seconds of each size: medians of TURNS in alternation."""
  found = [[_timed(job, units) for units in sizes] for _ in range(TURNS)]
  return [
    (
      statistics.median(wall for wall, _ in each),
      statistics.median(cpu for _, cpu in each),
    )
    for each in zip(*found, strict=True)
  ]


def fitted(
  job: Job,
  first: Sequence[tuple[float, float]],
  times: Sequence[tuple[float, float]],
) -> Rate:
  """The rate of what was measured: `first` calls, then warm ones."""
  wall, cpu = (
    fit([(u, max(t[i], 1e-6)) for u, t in zip(job.sizes, times, strict=True)])
    for i in (0, 1)
  )
  beside = tuple(
    max(sum(t[i] for t in first) - sum(of.seconds(u) for u in job.sizes), 0.0)
    for i, of in ((0, wall), (1, cpu))
  )
  return Rate(wall, cpu, (beside[0], beside[1]), job.of)


def builders(config: dict, parts: Sequence[Part]) -> list[Callable[[], Job]]:
  """What makes the jobs that the config needs; each holds its own weights."""
  found: list[Callable[[], Job]] = [
    lambda part=part: train(part) for part in parts
  ]
  if "sample" in config:
    sample = config["sample"]
    chains = [sample, *(sample.get("upsamplers") or ())]
    found += [
      lambda part=part, own=own: sampler(part, own, sample["batch"])
      for part, own in zip(parts, chains, strict=False)
    ]
    if config.get("distances"):
      found.append(
        lambda: search(math.prod(parts[-1].shape), config["distances"])
      )
  if config.get("membership"):
    found.append(lambda: signal(parts[0], config["membership"]))
    found.append(lambda: numbers(config["membership"]))
  return found


def train(part: Part) -> Job:
  """Steps of the network's own training, on one batch that stays."""
  sections = part.sections
  program = training.program(part.shape, **sections.config)
  state = program.init(keys.root(0))
  flops = network.TRAINING * part.cost.flops
  b = _batch(sections.train["batch"], flops, jax.device_count())
  batch: dict[str, Any] = {"image": _images(b, part.shape)}
  cond = network.cond(part.model, b)
  if part.model.num_classes is not None:
    batch["label"] = np.zeros(b, np.int64)
  elif isinstance(cond, dict):
    wanted = ("tokens", "mask")
    batch |= {k: v for k, v in cond.items() if k in wanted}
  batch = mesh.shard(batch, mesh.data_mesh())
  root = mesh.replicate(keys.root(1), mesh.data_mesh())
  held = {"state": state}

  def run(units: Units) -> None:
    for _ in range(round(units["images"] / b)):
      held["state"], metrics = program.step(held["state"], batch, root)
      jax.block_until_ready(metrics)

  smallest = b * max(1, round(RUN / (flops * b)))
  of = f"batches of {b}, the config has {sections.train['batch']}"
  return _job(part.job("train"), of, "images", smallest, run)


def sampler(part: Part, own: dict, batch: int) -> Job:
  """Blocks of the sampler, STEPS network calls deep."""
  denoiser = part.denoiser(part.model.init(keys.root(0)))
  steps = min(STEPS, own["steps"])
  options = {k: own[k] for k in ("stepper", "eta", "guidance", "clip")}
  calls = steps * (1 if own["guidance"] == 1.0 else 2)
  here = mesh.local_mesh()
  b = _batch(batch, part.cost.flops * calls, here.size)
  make = jax.jit(chain.chain(denoiser, steps=steps, **options))
  params = mesh.replicate(denoiser.params, here)
  ids = mesh.shard(np.arange(b, dtype=np.int32), here)
  cond = network.cond(part.model, b)
  cond = (
    None if cond is None else mesh.shard(jax.tree.map(np.asarray, cond), here)
  )
  key = mesh.replicate(keys.root(2), here)

  def run(units: Units) -> None:
    for _ in range(round(units["calls"] / (b * calls))):
      jax.device_get(make(params, ids, key, cond))

  least = max(1, round(RUN / (part.cost.flops * b * calls)))
  of = f"blocks of {b} images, {steps} steps"
  return _job(part.job("sample"), of, "calls", b * calls * least, run)


def signal(part: Part, membership: dict) -> Job:
  """The loss signal of one block of images, with more and more draws."""
  denoiser = part.denoiser(part.model.init(keys.root(0)))
  b = _batch(membership["batch"], part.cost.flops, jax.local_device_count())
  images, cond = _images(b, part.shape), network.cond(part.model, b)
  t = denoiser.schedule.steps // 10

  def run(units: Units) -> None:
    draws = round(units["calls"] / b)
    signals.compute(
      denoiser,
      images,
      loss.SIGNAL,
      t=(t,),
      batch=b,
      cond=cond,
      progress=False,
      draws=draws,
      seed=0,
      augment=("identity",),
    )

  smallest = b * max(1, round(RUN / (part.cost.flops * b)))
  of = f"blocks of {b} images"
  return _job(part.job("membership"), of, "calls", smallest, run)


def search(d: int, distances: dict) -> Job:
  """Exact neighbours among random images, queries and references varied."""
  side = SIDES[d <= 1024]
  rng = np.random.default_rng(0)
  pool = rng.integers(0, 256, (4 * side, d, 1, 1), np.uint8)
  sizes: dict[float, tuple[int, int]] = {}

  def run(units: Units) -> None:
    n, m = sizes[units["candidates"]]
    index = knn.Index(pool[:m], block=distances["block"])
    for start in range(0, n, distances["block"]):
      stop = min(start + distances["block"], n)
      index.search(pool[start:stop], min(distances["k"], m))

  def units(n: int, m: int) -> dict[str, float]:
    found = n * work.candidates(distances["k"], m)
    sizes[found] = n, m
    return {"candidates": found, "pairs": float(n * m)}

  half = side // 2
  small = tuple(units(n, m) for n in (half, side) for m in (half, side))
  of = f"{half} and {side} queries and references of {d} values"
  beyond = units(2 * side, 4 * side)
  return Job("distances", of, small, beyond, run)


def numbers(membership: dict) -> Job:
  """One attack's numbers, from random scores: as many curves as times."""
  times = tuple(membership["t"])
  options = {"bootstrap": membership["bootstrap"], "seed": 0}
  rule = {"criterion": membership["criterion"]}
  rng = np.random.default_rng(0)
  curves = len(times) + 2

  def run(units: Units) -> None:
    n = round(units["scores"] / curves)
    part = np.arange(n) % 5 == 0
    design = evaluate.Design(np.arange(n)[None] % 2 == 0, part, ~part)
    scores = rng.standard_normal((1, n, len(times)))
    found, row = evaluate.attack(
      scores,
      times,
      design,
      calibration=None,
      headline_t=times[0],
      **rule,
      **options,
    )
    controls.shuffled(
      scores,
      design,
      found["auc"][0],
      headline=row,
      permutations=membership["controls"]["permutations"],
      seed=0,
      **rule,
    )

  of = f"an attack at {len(times)} times"
  return _job("statistics", of, "scores", 1000 * curves, run)


def _job(name: str, of: str, unit: str, smallest: int, run: Callable) -> Job:
  sizes = tuple({unit: float(size * smallest)} for size in SIZES)
  return Job(name, of, sizes, {unit: BEYOND * sizes[-1][unit]}, run)


def _batch(wanted: int, flops: float, devices: int) -> int:
  """A multiple of the devices, no dearer than CALL where that can be."""
  most = max(1, min(wanted, int(CALL / flops)))
  return max(most // devices, 1) * devices


def _images(b: int, shape: Sequence[int]) -> np.ndarray:
  return np.random.default_rng(0).integers(0, 256, (b, *shape), np.uint8)


def _timed(job: Job, units: Units) -> tuple[float, float]:
  """(wall, CPU) seconds of one run."""
  cpu, wall = time.process_time(), time.perf_counter()
  job.run(units)
  return time.perf_counter() - wall, time.process_time() - cpu


def _key(config: dict, parts: Sequence[Part]) -> str:
  """Of all that rates depend on, amounts left out."""
  sample, membership = config.get("sample"), config.get("membership")
  hows = ("stepper", "eta", "guidance", "clip", "batch")
  found: dict[str, Any] = {
    "version": diffmem.__version__,
    "hardware": workdir.hardware(),
    "distances": config.get("distances"),
  }
  for part in parts:
    own = part.sections
    found[part.name] = [part.shape, own.models, own.diffusion, own.augmentation]
    found[f"{part.name} batch"] = own.train["batch"]
  if sample is not None:
    chains = [sample, *(sample.get("upsamplers") or ())]
    found["sample"] = [{k: c.get(k) for k in hows} for c in chains]
  if membership is not None:
    kept = ("t", "bootstrap", "batch", "criterion")
    found["membership"] = [membership[k] for k in kept]
    found["permutations"] = membership["controls"]["permutations"]
  return workdir.digest(found)


def _read(kept: dict) -> Rate:
  wall, cpu = (
    Fit(**{**kept[name], "residuals": tuple(kept[name]["residuals"])})
    for name in ("wall", "cpu")
  )
  return Rate(wall, cpu, tuple(kept["first"]), kept["of"])
