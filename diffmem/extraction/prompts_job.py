# SPDX-License-Identifier: Apache-2.0
"""The attack by prompt on a bank, in a folder that keeps what was computed.

Four steps, each of which goes on where an earlier run stopped: distances
across prompts, which bound the edge; the distances within each prompt;
controls, groups of as many images of as many different prompts; and, the edge
chosen, the clique test of each prompt that has a clique at all.
"""

import dataclasses
import math
from collections.abc import Callable

import numpy as np

from diffmem import stats, store, workdir
from diffmem.arrays import Float, Int
from diffmem.extraction import prompt_edge, prompts_bank, prompts_pieces
from diffmem.extraction import prompts as attack
from diffmem.extraction.prompt_edge import Across, Edge
from diffmem.extraction.prompts import Measured, Tested
from diffmem.extraction.tightest import tightest
from diffmem.progress import Progress
from diffmem.sample.bank import Bank

MEANS = {
  "given": "the edge was given, not calibrated",
  "across": "at most `rate` of pairs of different prompts are within the edge; "
  "pairs of one prompt are nearer, so ordinary prompts may be flagged: look at "
  "the ranking, or name unsuspected prompts",
  "ordinary": "about `rate` of prompts that look ordinary in this bank are "
  "flagged, if their tightest cliques are log-normal",
  "unsuspected": "about `rate` of prompts like those that were named as "
  "unsuspected are flagged",
}
CONTROL = (
  "groups of as many images of different prompts; ordinary prompts, whose "
  "images have one subject, are flagged more often"
)
KEYS = ("minimum", "flat", "limit", "edge", "edge_rate")  # of what is measured


class Job:
  """The attack; `run` does it.

  folder: of the stage; bank: which knows its prompts; images: its store;
  inputs: digests of both; options: the config section.
  """

  def __init__(
    self,
    folder,
    bank: Bank,
    images: store.Store,
    seed: int,
    inputs: dict,
    options: dict,
    progress: bool,
  ):
    self.bank, self.images, self.seed = bank, images, seed
    self.options = options
    self.progress = progress
    self.bytes = prompts_bank.image_bytes(bank.shape[1:])
    self.sets = prompts_bank.by_prompt(np.asarray(bank.prompt_ids))
    self.patch = options["patch"]
    if self.patch is None:
      self.patch = attack.default_patch(*bank.shape[1:3])
    self.groups = prompts_bank.groups(self.sets, self.bytes, options["limit"])
    made = {key: options[key] for key in KEYS} | {"patch": self.patch}
    of = workdir.digest([inputs["bank"], inputs["prompts"], seed, made])
    self.folder = folder / "pairs" / of[:16]
    self.folder.mkdir(parents=True, exist_ok=True)
    edge = options["edge"]
    self.given = math.inf if edge is None else float(edge)
    self.named = None
    if options["unsuspected"] is not None:
      self.named = prompts_bank.named(
        options["unsuspected"], bank.prompts or (), folder.parent
      )

  def run(self) -> tuple[list[Tested], dict]:
    """All prompts, tested, and what results.json says of them."""
    given = self.options["edge"]
    top = self.across() if given is None or len(self.sets) > 1 else None
    self.measure(top.value if top is not None and given is None else self.given)
    small = self.measured()
    controls = self.controls()
    edge, checked = self.edge(top, small)
    tested = self.test(edge.value)
    return tested, self.results(top, edge, controls, checked, tested)

  def across(self) -> Across:
    """The edge that pairs of different prompts allow."""
    options = self.options
    sizes = [min(len(p.rows), options["limit"]) for p in self.sets]
    rate = prompt_edge.pair_rate(options["edge_rate"], int(np.median(sizes)))

    def make() -> dict:
      rows, ids = prompts_bank.pool_rows(self.sets, self.bytes, self.seed)
      images = prompts_bank.read(self.images, rows)
      busy = attack.busy(images, options["flat"])
      between = np.zeros((0, 0))
      if busy.any():
        between = attack.matrix(images[busy], self.patch)
      return dataclasses.asdict(
        prompt_edge.across(
          between,
          ids[busy],
          asked=options["edge_rate"],
          rate=rate,
          seed=self.seed,
          bins=attack.BINS,
        )
      )

    found = self._kept("across.json", make)
    found["interval"] = tuple(found["interval"])
    found["histogram"] = np.array(found["histogram"], np.int64)
    return Across(**found)

  def measure(self, cap: float) -> None:
    """Compares the images of each prompt of the groups that are missing."""
    options = self.options
    there = [self._file("measured", i).exists() for i in self._numbers]
    missing = [i for i in self._numbers if not there[i]]
    with Progress(
      len(self.sets),
      what="prompts",
      unit="prompts",
      done=sum(len(self.groups[i]) for i in self._numbers if there[i]),
      enabled=self.progress,
    ) as bar:
      wanted = [self.groups[i] for i in missing]
      read = prompts_bank.read_groups(self.images, wanted, options["limit"])
      for i, (group, images) in zip(missing, read, strict=True):
        found = []
        for p, x in zip(group, images, strict=True):
          found.append(
            attack.measure(
              x,
              p.rows[: len(x)],
              prompt=p.id,
              minimum=options["minimum"],
              patch=self.patch,
              cap=cap,
              flat=options["flat"],
              over=len(p.rows) - len(x),
            )
          )
          bar.update(1)
        prompts_pieces.write_measured(self._file("measured", i), found)

  def measured(self) -> list[Measured]:
    """What was measured, without the pairs: of all prompts, in memory."""
    return [
      _small(m)
      for i in self._numbers
      for m in prompts_pieces.read_measured(self._file("measured", i))
    ]

  def controls(self) -> dict:
    """`tightest` of groups of images of different prompts, and their size."""
    options = self.options
    sizes = [min(len(p.rows), options["limit"]) for p in self.sets]
    size = min(int(np.median(sizes)), len(self.sets))
    count = options["controls"] if size >= options["minimum"] else 0

    def make() -> dict:
      rows = prompts_bank.control_rows(
        self.sets,
        size,
        count,
        one=self.bytes,
        chunk=self.images.chunk,
        seed=self.seed,
      )
      found = []
      for images in prompts_bank.read_controls(self.images, rows):
        busy = images[attack.busy(images, options["flat"])]
        value = math.inf
        if len(busy) >= options["minimum"]:
          between = attack.matrix(busy, self.patch)
          value = tightest(between, options["minimum"])[0]
        found.append(value if math.isfinite(value) else None)
      return {"tightest": found}

    if not count:
      return {"size": size, "tightest": []}
    found = self._kept(f"controls_{count}.json", make)["tightest"]
    return {
      "size": size,
      "tightest": [math.inf if v is None else v for v in found],
    }

  def edge(
    self, top: Across | None, measured: list[Measured]
  ) -> tuple[Edge, dict | None]:
    """The edge, and (flagged, prompts) of unsuspected prompts not used."""
    options = self.options
    values = {
      m.prompt: m.tightest for m in measured if math.isfinite(m.tightest)
    }
    use, rest = self._halves(values)
    given = options["edge"]
    if given is not None or top is None:
      ends = self.given, self.given
      edge = Edge(self.given, "given", None, ends, 0)
      rest = np.concatenate([use, rest])
    else:
      edge = prompt_edge.choose(
        top,
        _of(values, sorted(values)),
        None if self.named is None else _of(values, use),
        rate=options["flag_rate"],
        seed=self.seed,
      )
    if self.named is None:
      return edge, None
    return edge, _rate(_of(values, rest), edge.value)

  def _halves(
    self, values: dict[int, float]
  ) -> tuple[Int[np.ndarray, " u"], Int[np.ndarray, " v"]]:
    """Unsuspected prompts: to calibrate on, and to report on."""
    if self.named is None:
      return np.empty(0, np.int64), np.empty(0, np.int64)
    named = [p for p in self.named if p in values]
    if not named:
      raise ValueError(
        f"none of the {len(self.named)} prompts of prompts.unsuspected has "
        f"prompts.minimum = {self.options['minimum']} images: name others"
      )
    return prompt_edge.split(named, self.seed)

  def test(self, edge: float) -> list[Tested]:
    """The clique test of every prompt; what was tested before is read."""
    options = self.options
    name = workdir.digest([edge, options["budget"]])[:16]
    tested = []
    with Progress(
      len(self.sets), what="cliques", unit="prompts", enabled=self.progress
    ) as bar:
      for i in self._numbers:
        measured = prompts_pieces.read_measured(self._file("measured", i))
        file = self._file(f"cliques_{name}", i)
        if not file.exists():
          found = [
            attack.test(
              m,
              edge=edge,
              minimum=options["minimum"],
              budget=options["budget"],
            ).answer
            for m in measured
          ]
          prompts_pieces.write_answers(file, found)
        answers = prompts_pieces.read_answers(file)
        tested += map(Tested, map(_small, measured), answers)
        bar.update(len(measured))
    return tested

  def results(
    self,
    top: Across | None,
    edge: Edge,
    controls: dict,
    checked: dict | None,
    tested: list[Tested],
  ) -> dict:
    """results.json without training images."""
    options = self.options
    sizes = np.array([len(p.rows) for p in self.sets])
    few = sum(len(t.measured.rows) < options["minimum"] for t in tested)
    flagged = [t for t in tested if t.flagged]
    cliques = [(t.answer.clique, len(t.measured.rows)) for t in flagged]
    shares = [c.size / images for c, images in cliques if c is not None]
    ids = np.asarray(self.bank.prompt_ids)
    within = sum((t.measured.histogram for t in tested), 0 * attack.BINS[1:])
    return {
      "prompts": len(self.sets),
      "generated": len(ids),
      "ungrouped": int(np.count_nonzero(ids < 0)),
      "per_prompt": [sizes.min(), int(np.median(sizes)), sizes.max()],
      "flat": sum(t.measured.flat for t in tested),
      "over_limit": sum(t.measured.over for t in tested),
      "patch": self.patch,
      "minimum": options["minimum"],
      "edge": _edge(top, edge, options),
      "flagged": len(flagged),
      "tested": len(tested) - few,
      "too_few": few,
      "undecided": sum(t.undecided for t in tested),
      "not_proven_best": sum(not t.answer.exact for t in flagged),
      "clique_share": np.quantile(shares, [0, 0.5, 1]) if shares else None,
      "control": {
        **_rate(np.array(controls["tightest"]), edge.value),
        "size": controls["size"],
        "means": CONTROL,
        "unsuspected": checked,
      },
      "histogram": {
        "edges": attack.BINS,
        "within": within.astype(np.int64),
        "across": None if top is None else top.histogram,
      },
      "with_training": None,
    }

  @property
  def _numbers(self) -> range:
    return range(len(self.groups))

  def _file(self, name: str, group: int):
    return self.folder / f"{name}_{group:08d}.npz"

  def _kept(self, name: str, make: Callable[[], dict]) -> dict:
    """What an earlier run made, or made and written now."""
    file = self.folder / name
    if not file.exists():
      workdir.write_json(file, make())
    return workdir.read_json(file)


def _small(measured: Measured) -> Measured:
  """Without its pairs."""
  return dataclasses.replace(
    measured, pairs=np.empty((0, 2), np.int64), lengths=np.empty(0)
  )


def _of(
  values: dict[int, float], prompts: list[int] | Int[np.ndarray, " p"]
) -> Float[np.ndarray, " p"]:
  return np.array([values[int(p)] for p in prompts], np.float64)


def _rate(values: Float[np.ndarray, " g"], edge: float) -> dict:
  """How many of some groups are flagged at an edge."""
  flagged, count = int(np.count_nonzero(values <= edge)), len(values)
  interval = stats.clopper_pearson(flagged, count)
  return {"flagged": flagged, "groups": count, "interval": interval}


def _edge(top: Across | None, edge: Edge, options: dict) -> dict:
  """The edge and what it rests on."""
  bound = None
  if top is not None:
    bound = {k: v for k, v in vars(top).items() if k != "histogram"}
    bound["rate_asked"] = options["edge_rate"]
  return {
    **vars(edge),
    "means": MEANS[edge.method],
    "pairs": None if top is None else top.pairs,
    "across": bound,
  }
