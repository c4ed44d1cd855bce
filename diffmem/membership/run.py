# SPDX-License-Identifier: Apache-2.0
"""The membership stage: every attack of the config, with its controls.

Writes <root>/membership:

  signals/          what was computed of each model for each image (kept)
  results.json      numbers of each attack by its name; keys that begin with
                    "_" are no attacks: _parts, _controls, _images, _by_step,
                    _joined, _audits, _prompts
  scores.csv        one line an image, one column an attack
  prompts.csv       one line a caption, one column a detector
  roc.npz           exact curves
  gallery.npz       easiest and hardest images
  shadow_scores.npz scores [target, image] of attacks on shadow models

Times are chosen, networks trained and thresholds set on images that no number
comes from (`choosing`); with `headline_t` the time is fixed in advance.
"""

import io
import logging
import os
from typing import Any

import numpy as np

from diffmem import processes, workdir
from diffmem.membership import (
  ATTACKS,
  GAN_ATTACKS,
  aside,
  audits,
  choosing,
  controls,
  discriminator,
  evaluate,
  learnt,
  manifest,
  nearest,
  prompt_stage,
  scene,
  shadow_signals,
  shadowed,
  single,
  stored,
  targets,
)

_log = logging.getLogger(__name__)


def run(
  root: str | os.PathLike,
  *,
  seed: int,
  membership: dict,
  progress: bool = True,
) -> None:
  """Makes <root>/membership, or what is still missing of it.

  Args:
    root: the workdir; its training must have finished.
    seed: of the noise, of who chooses, of the bootstrap.
    membership: the config section, as a plain dict.
    progress: show the rate and the time left.

  Raises:
    FileNotFoundError: there are no weights, or shadows are missing.
    ValueError: an option that cannot be, or signals kept from other options.
    FloatingPointError: a signal is not finite; names the ids.
  """
  plan = stored.plan(membership, seed)
  _check(membership, plan)
  losses = None
  with_shadows = bool(membership["shadow_attacks"])
  attacks = []
  if with_shadows:
    losses = stored.wanted(stored.base(membership), membership, seed, plan)
    attacks = shadowed.plan(membership, losses)
  learns = any(want.attack.fit is not None for want in plan)
  fixed = membership["headline_t"] is not None
  here = scene.build(
    root,
    share=0.0 if fixed and not learns else membership["choose"],
    seed=seed,
    with_shadows=with_shadows,
  )
  _check_targets(here, membership, plan)
  nearest.check(root, here, membership.get("nearest"))
  learnt.check(here, membership, seed)
  audits.check(here, membership["audits"])
  prompt_stage.check(membership.get("prompts"))
  if not fixed:
    count = here.design.counts(here.design.choose)["non_members"]
    choosing.check_criterion(membership["criterion"], count)
  batch = membership["batch"]
  needed = [(here.targets, want) for want in plan]
  if here.shadows is not None and losses is not None:
    needed.append((here.shadows, losses))
    for attack in attacks:
      shadowed.check(here, attack)
  for models, want in needed:
    shadow_signals.check(
      models, want.signal, t=want.times, batch=batch, **want.of_signal
    )
  generated = aside.bank(root, here, membership["generated"])
  reads = membership["generated"] or membership.get("nearest") is not None
  inputs = {**here.inputs, **aside.inputs(root, int(reads))}
  with workdir.stage(
    root,
    "membership",
    config={"seed": seed, "membership": membership},
    inputs=inputs,
    replace=True,  # what is dear are the signals, held to their own records
  ) as stage:
    if stage.finished:
      _log.info("membership: finished before, kept (%s)", stage.folder)
      return
    if here.shadows is not None:
      manifest.write(here.shadows)
    for models, want in needed:  # what is dear, by all processes
      shadow_signals.compute(
        models,
        want.signal,
        t=want.times,
        batch=batch,
        progress=progress,
        **want.of_signal,
      )
    work = _Work(root, here, membership, seed, progress)
    _attack(work, stage.folder, plan, attacks, losses, generated)


@processes.led
def _attack(
  work: "_Work",
  folder: os.PathLike,
  plan: list[stored.Wanted],
  attacks: list[shadowed.Plan],
  losses: stored.Wanted | None,
  generated: Any,
) -> None:
  """Scores, numbers and controls of all attacks, from the signals."""
  found = [work.without_shadows(want) for want in plan]
  if work.here.shadows is not None and losses is not None:
    found += work.with_shadows(attacks, losses)
  found += work.learnt(found) + work.by_generations()
  extra = work.control(plan, found, attacks, generated)
  extra |= work.beside(folder, plan, found)
  _write(folder, work.here, found, extra)


def _check(membership: dict, plan: list[stored.Wanted]) -> None:
  t = membership["headline_t"]
  for want in plan:
    if t is not None and t not in want.times and len(want.times) > 1:
      where = "membership.t"
      if membership.get(want.name, {}).get("t"):
        where = f"membership.{want.name}.t"
      raise ValueError(
        f"membership.headline_t = {t} is not in {where} = {want.times}: add it"
      )
  chosen = t is None and any(len(want.times) > 1 for want in plan)
  learnt = any(want.attack.fit is not None for want in plan)
  if (chosen or learnt) and not membership["choose"]:
    raise ValueError(
      f"membership.choose = {membership['choose']}: there is nobody to choose "
      "or learn from; set a share, such as 0.2, or membership.headline_t"
    )
  for key, least in (("bootstrap", 1), ("generated", 0), ("gallery", 0)):
    if membership[key] < least:
      raise ValueError(
        f"membership.{key} = {membership[key]}, expected at least {least}"
      )
  if membership["criterion"] not in choosing.CRITERIA:
    choosing.check_criterion(membership["criterion"], 1)
  for key in ("draws", "permutations"):
    if membership["controls"][key] < 2:
      raise ValueError(
        f"membership.controls.{key} = {membership['controls'][key]}, expected "
        "at least 2"
      )


def _check_targets(here, membership: dict, plan: list[stored.Wanted]) -> None:
  """Attacks are of denoisers or of GANs; refuses those of the other kind."""
  meta = here.targets.models[0].meta
  kind = targets.kind(meta["config"])
  for want in plan:
    if want.attack.of != kind:
      raise ValueError(
        f"membership.attacks has {want.name!r}, which is of a "
        f"{want.attack.of}, and the model is a {kind}: choose of "
        f"{', '.join(GAN_ATTACKS if kind == 'GAN' else ATTACKS)}"
      )
    if kind == "GAN":
      discriminator.check_times(want.times)
  if kind == "GAN" and membership["gradients"] is not None:
    raise ValueError(
      "membership.gradients are of a denoiser's loss, the model is a GAN: set "
      "membership.gradients=None"
    )
  learnt.check_keys(
    "membership.nearest", membership.get("nearest"), nearest.KEYS
  )


class _Work:
  """The parts of one run, with what they share."""

  def __init__(self, root, here, membership: dict, seed: int, progress: bool):
    self.root, self.here = root, here
    self.membership, self.seed, self.progress = membership, seed, progress
    self.rule = {k: membership[k] for k in ("headline_t", "criterion")}
    self.resampling = {"bootstrap": membership["bootstrap"], "seed": seed}

  def without_shadows(self, want: stored.Wanted) -> single.Result:
    """One attack without shadows."""
    return single.run(
      self.here,
      want,
      batch=self.membership["batch"],
      progress=self.progress,
      **self.rule,
      **self.resampling,
    )

  def with_shadows(
    self, attacks: list[shadowed.Plan], want: stored.Wanted
  ) -> list[single.Result]:
    """The attacks with shadows."""
    found = shadow_signals.compute(
      self.here.shadows,
      want.signal,
      t=want.times,
      batch=self.membership["batch"],
      progress=self.progress,
      **want.of_signal,
    )
    losses = found.values()[:, self.here.pool]
    return [
      shadowed.run(
        self.here, attack, losses, want.times, **self.rule, **self.resampling
      )
      for attack in attacks
    ]

  def learnt(self, found: list[single.Result]) -> list[single.Result]:
    """Quantile regression on an attack's scores; gradient norms."""
    common = {"criterion": self.rule["criterion"], **self.resampling}
    made, options = [], self.membership["quantile"]
    if options is not None:
      base = next(one for one in found if one.name == options["attack"])
      made.append(learnt.with_thresholds(self.here, base, **options, **common))
    options = self.membership["gradients"]
    if options is not None:
      made.append(
        learnt.with_gradients(
          self.here,
          **options,
          batch=self.membership["batch"],
          progress=self.progress,
          **common,
        )
      )
    return made

  def by_generations(self) -> list[single.Result]:
    """The attack that needs a bank alone, where it is asked for."""
    section = self.membership.get("nearest")
    if section is None:
      return []
    criterion = self.rule["criterion"]
    return [
      nearest.run(
        self.root, self.here, section, criterion=criterion, **self.resampling
      )
    ]

  def control(self, plan, found, attacks, generated) -> dict[str, Any]:
    """What is found in nothing; {"_controls": ..}."""
    options, design = self.membership["controls"], self.here.design
    count = int(self.here.parts.calibration.sum())
    result: dict[str, Any] = {
      "blind": aside.blind_control(
        self.here, options, self.membership["bootstrap"], self.seed
      )
    }
    most = max((r for r in found), key=lambda r: r.by_time.shape[2])
    result["random"] = {
      "scores": controls.random(
        design,
        most.by_time.shape[2],
        count,
        headline=None if self.rule["headline_t"] is None else most.row,
        criterion=self.rule["criterion"],
        draws=options["draws"],
        seed=self.seed,
      )
    }
    for attack in attacks:
      result["random"][attack.name] = shadowed.random_control(
        self.here, attack, draws=max(5, options["draws"] // 10), seed=self.seed
      )
    for one in found:
      made = single.control(
        self.here,
        one,
        attacks=len(plan),
        permutations=options["permutations"],
        **self.rule,
        **self.resampling,
      )
      for kind, value in made.items():
        result.setdefault(kind, {})[one.name] = value
    result["generated"] = aside.generated_control(
      self.root,
      self.here,
      list(zip(plan, found, strict=False)),
      generated,
      batch=self.membership["batch"],
      progress=self.progress,
      **self.resampling,
    )
    return {"_controls": result}

  def beside(self, folder, plan, found) -> dict[str, Any]:
    """Easiest and hardest images, checkpoints, extraction, audits."""
    made: dict[str, Any] = {"_parts": aside.parts(self.here)}
    made["_images"] = aside.gallery(
      folder, self.here, found, **self.membership["images"],
      count=self.membership["gallery"],
    )  # fmt: skip
    made["_by_step"] = aside.steps(
      self.here,
      plan,
      found,
      wanted=self.membership["by_step"],
      batch=self.membership["batch"],
      progress=self.progress,
      **self.resampling,
    )
    made["_joined"] = aside.joined_with_extraction(
      self.root, self.here, found, **self.resampling
    )
    made["_audits"] = audits.run(
      self.root,
      self.here,
      found,
      self.membership["audits"],
      batch=self.membership["batch"],
      seed=self.seed,
      progress=self.progress,
    )
    made["_prompts"] = prompt_stage.run(
      self.root,
      self.here,
      self.membership.get("prompts"),
      batch=self.membership["batch"],
      progress=self.progress,
      **self.resampling,
    )
    return made


def _write(folder, here, found: list[single.Result], extra: dict) -> None:
  """Scores and curves of each attack; results.json last."""
  curves, columns, matrices = {}, {}, {}
  results: dict[str, Any] = {}
  pool = here.pool
  for one in found:
    results[one.name] = numbers = dict(one.numbers)
    curves[f"{one.name}_fpr"], curves[f"{one.name}_tpr"] = one.curve
    own = numbers.get("main")
    if own is not None:
      numbers["main"] = {k: v for k, v in own.items() if k != "scores"}
      columns[one.name] = own["scores"]
    elif here.main is not None:
      columns[one.name] = one.scores[0]
    if numbers["kind"] == "shadow" or here.main is None:
      matrices[one.name] = one.scores[:, : int(pool.sum())]
  if matrices:
    design = here.shadow_design
    matrices["_ids"] = here.ids[pool]
    matrices["_inside"] = design.inside[:, pool]
    matrices["_choose"] = design.choose[pool]
    _save(folder / "shadow_scores.npz", matrices)
  _save(folder / "roc.npz", curves)
  if here.main is not None:
    text = evaluate.scores_csv(here.ids, here.parts, columns)
  else:
    text = aside.mean_scores_csv(here, found)
  workdir.write_bytes(folder / "scores.csv", text.encode())
  workdir.write_json(folder / "results.json", {**results, **extra})


def _save(file, arrays: dict[str, Any]) -> None:
  packed = io.BytesIO()
  np.savez_compressed(packed, **arrays)
  workdir.write_bytes(file, packed.getvalue())
