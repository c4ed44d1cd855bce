# SPDX-License-Identifier: Apache-2.0
"""Who was in the training set? Shadow models on scikit-learn's digits.

  diffmem-audit --config=configs/digits_membership.py --workdir=runs/members
  diffmem-audit --config=configs/digits_membership.py:debug --workdir=runs/debug
  ... --config=configs/digits_membership.py:shadows=16
  diffmem-train --config=configs/digits_membership.py:shadow=3 --workdir=...

There is no model but the shadows: eight small networks, in pairs, each trained
on a half of 1,198 images that its partner never sees. Each of them is attacked
in turn, with the others, its partner left out, as shadow models (Carlini et
al. 2022, arXiv:2112.03570; Zarifzadeh et al. 2024, arXiv:2312.03262), and by
the attacks that need none; every image is a member of half of the targets.
599 images are outside all of them and set thresholds. A residual MLP stands
for the U-Net: it trains several times faster on a CPU.

Arguments: `debug` (the same path in under a minute, too short to learn
anything), `seed=N`, `shadows=N` (an even number, 6 or more), `steps=N` (of
training; at 8,000 the loss alone tells nearly all), `shadow=I` (this run is of
shadow I alone, in <workdir>/shadows/I, as one job of many), `inpaint` (also
fill in hidden halves of digits, as digits_reconstruction.py does).
"""

import ml_collections
from ml_collections.config_dict import placeholder

from diffmem import args


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is what follows the colon of --config."""
  given = args.parse(
    arg,
    debug=False,
    seed=0,
    shadows=8,
    shadow=int,
    steps=3000,
    inpaint=False,
  )
  if given.shadows < 6:
    raise ValueError(
      f"config argument shadows={given.shadows}: expected 6 or more, LiRA "
      "compares with two pairs besides the one under attack"
    )
  alone = given.shadow is not None  # no others to attack it with
  sections = dict(
    seed=given.seed,
    data=dict(
      source="digits",
      data_dir=placeholder(str),
      crop="none",
      resize=placeholder(int),
      filter="lanczos",
      split=dict(
        name="random",
        members=0,  # of a main model: there is none
        held_out=1198,  # the pool: each shadow trains on a half of it
        calibration=599,
        planted=(),
        shadows=given.shadows,
        shadow=placeholder(int) if given.shadow is None else given.shadow,
        path=placeholder(str),
      ),
    ),
    models=dict(
      name="mlp",
      num_classes=placeholder(int),  # none: unconditional
      dtype="float32",
      width=256,
      blocks=4,
      dropout=0.0,
      time_scale=1.0,
    ),
    diffusion=dict(
      schedule=dict(name="linear", steps=1000),
      prediction="eps",
      loss="mse",
    ),
    train=dict(
      batch=64,
      steps=given.steps,
      lr=2e-3,
      warmup=200,
      decay="cosine",
      clip=1.0,
      ema=0.999,
      flip=False,  # a mirrored digit is no digit
      label_dropout=0.0,
      log_every=100,
      checkpoint_every=1500,
      preview_every=given.steps,
      preview=0,
      tensorboard=False,
    ),
    membership=dict(
      attacks=("loss", "secmi", "pia", "pian", "sima"),
      t=(10, 30, 50, 100, 200),
      headline_t=placeholder(int),  # none: chosen on images set aside
      choose=0.2,  # of the pool
      criterion="auc",  # what is best there; or tpr@0.01
      batch=512,
      bootstrap=1000,
      # One section an attack; `t` there takes the place of the one above.
      loss=dict(draws=16, augment=("identity",), over="mean"),
      secmi=dict(interval=10, mode="paper"),
      pia=dict(p=4, normalise="none"),
      pian=dict(p=4, normalise="consistent"),
      sima=dict(p=4),
      shadow_attacks=dict() if alone else _with_shadows(),
      quantile=dict(  # thresholds for each image, learnt on calibration
        attack="loss", components=16, fpr=0.05, regressor="linear", bags=7
      ),
      gradients=None
      if alone
      else dict(times=10, draws=1, norms="mean", classifier="linear"),
      audits=dict(
        canaries=None,  # see digits_audits.py
        one_run=None,
        sets=dict(
          sizes=(20, 50, 100, 200), alpha=0.01, resamples=50, learn=0.5
        ),
      ),
      by_step=True,  # attack earlier checkpoints too
      generated=0,  # nothing is sampled
      gallery=12,  # easiest and hardest images of each kind
      images=dict(neighbours=5, most=100_000),  # who are outliers
      controls=dict(
        draws=200,
        permutations=200,
        components=32,
        trees=100,
        folds=5,
        images=20_000,
      ),
    ),
    report=dict(
      title="Who was in the training set of models of handwritten digits",
      gallery=48,  # pairs of images shown
      labels=(),  # files of marks that people made on report/sheets.html
    ),
  )
  if given.inpaint and not alone:
    sections["inpaint"] = _inpaint()
  config = ml_collections.ConfigDict(sections).lock()
  if given.debug:
    config.models.update(width=32, blocks=1)
    config.train.update(steps=20, warmup=5, log_every=10, checkpoint_every=10)
    config.train.update(batch=32, preview_every=20)
    config.membership.update(t=(10, 30), bootstrap=100)
    config.membership.loss.draws = 2
    config.membership.audits.sets.update(sizes=(20,), resamples=5)
    config.membership.quantile.bags = 1
    if not alone:
      config.membership.gradients.times = 2
    config.membership.controls.update(draws=20, permutations=20, trees=10)
    for section in config.membership.shadow_attacks.values():
      section.draws = min(section.draws, 2)
    if "inpaint" in config:
      config.inpaint.update(targets=6, candidates=8, keep=2, batch=8, steps=5)
      config.inpaint.update(resample=2, draws=2, bootstrap=50, gallery=4)
  return config


def _inpaint() -> dict:
  """That of digits_reconstruction.py, with half the candidates."""
  return dict(
    mask="left",  # the hidden half; or right, top, bottom, or a picture
    targets=100,
    candidates=64,
    keep=10,  # ranked highest, whose mean distance counts
    batch=128,
    stepper="ddpm_fixed_large",
    steps=50,
    eta=1.0,  # of ddim
    clip=True,
    jump=1,  # levels back, to let both halves agree
    resample=5,  # times each level is passed
    t=100,  # of the loss that ranks
    draws=16,
    bootstrap=1000,
    gallery=16,
  )


def _with_shadows() -> dict:
  """Attacks with shadow models; the plain loss is among those without."""
  lira = dict(
    kind="lira",
    draws=16,
    augment=("identity",),
    variant="online",
    variance="fixed",  # of all images: three shadows a side tell no other
    statistic="log",
    augmentations="mean",
  )
  rmia = dict(
    kind="rmia",
    draws=16,
    augment=("identity",),
    variant="online",
    population=None,  # the ratio itself: its place among others is tied
    gamma=1.0,
    a=1.0,
    statistic="log",
    scale=1.0,
    break_ties=False,
  )
  return dict(
    lira=lira,
    lira_one_draw={**lira, "draws": 1},
    lira_per_example={**lira, "variance": "example"},
    lira_offline={**lira, "variant": "offline"},
    rmia=rmia,
    rmia_offline={**rmia, "variant": "offline"},
  )
