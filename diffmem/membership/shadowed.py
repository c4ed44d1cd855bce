# SPDX-License-Identifier: Apache-2.0
"""Attacks with shadow models, over all targets: scores and numbers.

Every shadow is a target in turn, its pair left out, and their scores make one
ROC; a model of the workdir's own is attacked by all shadows, and reported
apart. An attack of the config is a name and a section

  kind       one of KINDS
  draws      how many of the stored noise draws are averaged
  augment    which of the stored augmentations
  ...        the options of that kind, all of them

The times are those of the signal; one is chosen on images of the pool that
nothing is reported on, under all models.
"""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import numpy as np

from diffmem import stats
from diffmem.arrays import Bool, Float
from diffmem.membership import (
  controls,
  evaluate,
  lira,
  matrices,
  rmia,
  signals,
)
from diffmem.membership.evaluate import Design
from diffmem.membership.scene import Scene
from diffmem.membership.single import Result
from diffmem.membership.stored import Wanted


def threshold(
  target: Float[np.ndarray, "n *rest"],
  shadows: Float[np.ndarray, "s n *rest"],
  masks: Bool[np.ndarray, "s n"],
) -> Float[np.ndarray, " n"]:
  """The mean loss under the target alone: what shadows are compared with."""
  del shadows, masks
  return -matrices.averaged(target, 1, augmentations=True)


KINDS: dict[str, Callable[..., np.ndarray]] = {
  "loss": threshold,
  "lira": lira.score,
  "rmia": rmia.score,
}
COMMON = ("kind", "draws", "augment")


@dataclasses.dataclass(frozen=True)
class Plan:
  """One attack of the config; see the module."""

  name: str
  kind: str
  draws: int
  views: tuple[int, ...]
  augment: tuple[str, ...]
  options: dict[str, Any]

  @property
  def score(self) -> Callable[..., np.ndarray]:
    """(target, shadows, masks) -> scores."""
    return functools.partial(KINDS[self.kind], **self.options)

  def losses(
    self, losses: Float[np.ndarray, "m n draws a"], draws: int | None = None
  ) -> Float[np.ndarray, "m n draws a"]:
    """Those that the attack reads."""
    return losses[:, :, : draws or self.draws, list(self.views)]


def plan(membership: dict, want: Wanted) -> list[Plan]:
  """The attacks of `membership.shadow_attacks` on the losses of `want`.

  Raises:
    ValueError: a kind or an option that is not, or that is missing.
  """
  found = []
  for name, section in membership["shadow_attacks"].items():
    if name in membership["attacks"] or name.startswith("_"):
      raise ValueError(
        f"membership.shadow_attacks has {name!r}, which is also an attack "
        "without shadows, or begins with '_': give it another name"
      )
    given = dict(section)
    kind = given.get("kind")
    if kind not in KINDS:
      raise ValueError(
        f"membership.shadow_attacks.{name}.kind = {kind!r}: choose one of "
        f"{', '.join(KINDS)}"
      )
    needed = {*COMMON, *signals.keywords(KINDS[kind])}
    for what, keys in (
      ("lacks", needed - set(given)),
      ("has the unknown", set(given) - needed),
    ):
      if keys:
        raise ValueError(
          f"membership.shadow_attacks.{name} {what} "
          f"{', '.join(sorted(keys))}: expected {', '.join(sorted(needed))}"
        )
    options = {k: v for k, v in given.items() if k not in COMMON}
    augment, stored = tuple(given["augment"]), list(want.options["augment"])
    draws, most = given["draws"], want.options.get("draws", 1)
    if not set(augment) <= set(stored) or not augment:
      raise ValueError(
        f"membership.shadow_attacks.{name}.augment = {augment}: the losses "
        f"have {tuple(stored)}; change it, or membership.loss.augment"
      )
    if not 1 <= draws <= most:
      raise ValueError(
        f"membership.shadow_attacks.{name}.draws = {draws}: the losses have "
        f"{most}; change it, or membership.loss.draws"
      )
    views = tuple(stored.index(a) for a in augment)
    found.append(Plan(name, kind, draws, views, augment, options))
  return found


def run(
  scene: Scene,
  attack: Plan,
  losses: Float[np.ndarray, "m n t draws a"],
  times: tuple[int, ...],
  *,
  headline_t: int | None,
  criterion: str,
  bootstrap: int,
  seed: int,
) -> Result:
  """Scores and numbers of one attack.

  Args:
    scene: with shadows; where the workdir has a model of its own, it is the
      first of the manifest's models.
    attack: which.
    losses: of all of these models, on the pool.
    times: of the losses.
    headline_t, criterion, bootstrap, seed: as in `evaluate.attack`.

  Raises:
    ValueError: losses that cannot be compared.
  """
  design = pool_design(scene)
  own = len(losses) - len(design.inside)  # 1 where there is a main model
  by_time = np.stack(
    [
      matrices.leave_pair_out(
        attack.score,
        attack.losses(losses[own:, :, i]),
        design.inside,
      )
      for i in range(len(times))
    ],
    axis=-1,
  )
  numbers, row = evaluate.attack(
    by_time,
    times,
    design,
    calibration=None,
    headline_t=headline_t,
    criterion=criterion,
    bootstrap=bootstrap,
    seed=seed,
  )
  numbers |= {
    "kind": "shadow",
    "models": len(design.inside),
    "images": int(design.report.sum()),
    "attack": attack.kind,
    "draws": attack.draws,
    "augment": attack.augment,
    "options": attack.options,
    "by_draws": by_draws(
      attack, losses[own:, :, row], design, bootstrap=bootstrap, seed=seed
    ),
  }
  if own:
    read = attack.losses(losses[:, :, row])
    numbers["main"] = of_main(
      scene,
      attack.score(read[0], read[1:], design.inside),
      bootstrap=bootstrap,
      seed=seed,
    )
  return Result(attack.name, numbers, by_time[:, :, row], design, by_time, row)


def pool_design(scene: Scene) -> Design:
  """The design of the shadows over the pool alone."""
  design, pool = scene.shadow_design, scene.pool
  return Design(
    design.inside[:, pool], design.choose[pool], design.report[pool]
  )


def by_draws(
  attack: Plan,
  losses: Float[np.ndarray, "m n draws a"],
  design: Design,
  *,
  bootstrap: int,
  seed: int,
) -> list[dict[str, Any]]:
  """The same with fewer noise draws and augmentations."""

  def score(views: int, draws: int) -> Float[np.ndarray, "m n"]:
    return matrices.leave_pair_out(
      attack.score,
      losses[:, :, :draws, list(attack.views[:views])],
      design.inside,
    )

  return evaluate.by_draws(
    score,
    attack.augment,
    attack.draws,
    design,
    bootstrap=bootstrap,
    seed=seed,
  )


def of_main(
  scene: Scene,
  scores: Float[np.ndarray, " pool"],
  *,
  bootstrap: int,
  seed: int,
) -> dict[str, Any]:
  """Numbers of the workdir's own model, scored by all shadows.

  `scores` of the pool come back with NaN for the calibration part.
  """
  parts = scene.parts
  padded = np.concatenate(
    [scores, np.full(int(parts.calibration.sum()), np.nan)]
  )
  once, never = (parts.rows(parts.report, c) for c in (1, 0))
  found = stats.summary(
    padded[once],
    padded[never],
    fprs=evaluate.FPRS,
    resamples=bootstrap,
    seed=seed,
  )
  return {
    **found,
    "members": len(once),
    "non_members": len(never),
    "by_copies": evaluate.by_copies(
      padded, parts, bootstrap=bootstrap, seed=seed
    ),
    "scores": padded,
  }


def check(scene: Scene, attack: Plan) -> None:
  """ValueError, before anything is computed, where the shadows do not do."""
  inside = pool_design(scene).inside
  noise = np.random.default_rng(0).lognormal(size=inside.shape)
  try:
    matrices.leave_pair_out(attack.score, noise, inside)
  except ValueError as e:
    raise ValueError(f"membership.shadow_attacks.{attack.name}: {e}") from None


def random_control(
  scene: Scene, attack: Plan, *, draws: int, seed: int
) -> dict[str, Any]:
  """The attack on losses of pure noise: see `controls.random`."""
  design = pool_design(scene)

  def score(noise: Float[np.ndarray, "m n"]) -> Float[np.ndarray, "m n"]:
    return matrices.leave_pair_out(attack.score, noise, design.inside)

  return controls.random(
    design,
    1,
    0,
    headline=0,
    criterion="auc",
    draws=draws,
    seed=seed,
    score=score,
  )
