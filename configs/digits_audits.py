# SPDX-License-Identifier: Apache-2.0
"""How much may a model know? Audits of one training run on digits.

  diffmem-audit --config=configs/digits_audits.py --workdir=runs/audits
  diffmem-audit --config=configs/digits_audits.py:debug --workdir=runs/debug

A class-conditional network is trained on a pool of 1,198 images of which each
is put in or left out by a fair coin, so that one run bounds epsilon from below
(Steinke et al. 2023, arXiv:2305.08846). Canaries go in 1 to 16 times: images
of uniform noise, and digits with a wrong label; exposure ranks them among
1,024 that never went in (Carlini et al. 2023, arXiv:2301.13188, section 7.3).
And sets of images are found together where single ones may not be.

Arguments: `debug` (the same path in under a minute, too short to learn
anything), `seed=N`, `steps=N` (of training).
"""

import ml_collections
from ml_collections.config_dict import placeholder

from diffmem import args

COPIES = ((0, 8), (1, 8), (2, 8), (4, 8), (8, 4), (16, 4))  # copies, canaries


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is what follows the colon of --config."""
  given = args.parse(arg, debug=False, seed=0, steps=3000)
  sections = dict(
    seed=given.seed,
    data=dict(
      source="digits",
      data_dir=placeholder(str),
      crop="none",
      resize=placeholder(int),
      filter="lanczos",
      split=dict(
        name="bernoulli",  # each of members + held_out by a coin
        members=599,
        held_out=599,
        calibration=599,
        planted=(),
        shadows=0,
        shadow=placeholder(int),
        path=placeholder(str),
      ),
      canaries=dict(noise=COPIES, mislabelled=COPIES, reference=1024),
    ),
    models=dict(
      name="mlp",
      num_classes=10,
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
      batch=128,
      steps=given.steps,
      lr=2e-3,
      warmup=200,
      decay="cosine",
      clip=1.0,
      ema=0.999,
      flip=False,  # a mirrored digit is no digit
      label_dropout=0.1,
      log_every=100,
      checkpoint_every=1500,
      preview_every=given.steps,
      preview=0,
      tensorboard=False,
    ),
    membership=dict(
      attacks=("loss", "secmi", "pia", "sima"),
      t=(10, 30, 50, 100, 200),
      headline_t=placeholder(int),  # none: chosen on images set aside
      choose=0.2,  # of members, and of held-out images
      criterion="auc",  # what is best there; or tpr@0.01
      batch=512,
      bootstrap=1000,
      # One section an attack; `t` there takes the place of the one above.
      loss=dict(draws=16, augment=("identity",), over="mean"),
      secmi=dict(interval=10, mode="paper"),
      pia=dict(p=4, normalise="none"),
      sima=dict(p=4),
      shadow_attacks=dict(),  # see digits_membership.py
      quantile=dict(  # thresholds for each image, learnt on calibration
        attack="loss", components=16, fpr=0.05, regressor="linear", bags=7
      ),
      gradients=None,  # needs shadow models, see digits_membership.py
      audits=dict(
        canaries=dict(t=30, draws=16),
        one_run=dict(
          delta=1e-5,
          significance=0.05,
          outside=0.5,  # share of the guesses that are "out"
          part=0.3,  # of the images, to choose the number of guesses
        ),
        sets=dict(
          sizes=(20, 50, 100, 200), alpha=0.01, resamples=50, learn=0.5
        ),
      ),
      by_step=False,  # attack earlier checkpoints too
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
      title="Audits of one training run on handwritten digits",
      gallery=48,  # pairs of images shown
      labels=(),  # files of marks that people made on report/sheets.html
    ),
  )
  config = ml_collections.ConfigDict(sections).lock()
  if given.debug:
    config.data.canaries.reference = 64
    config.models.update(width=32, blocks=1)
    config.train.update(steps=20, warmup=5, log_every=10, checkpoint_every=10)
    config.train.update(batch=32, preview_every=20)
    config.membership.update(t=(10, 30), bootstrap=100)
    config.membership.loss.draws = 2
    config.membership.quantile.bags = 1
    config.membership.audits.canaries.draws = 2
    config.membership.audits.sets.update(sizes=(20,), resamples=5)
    config.membership.controls.update(draws=20, permutations=20, trees=10)
  return config
