# SPDX-License-Identifier: Apache-2.0
"""SIDE on small models of handwritten digits: does a condition extract more?

  diffmem-audit --config=configs/side_small.py --workdir=runs/side
  diffmem-audit --config=configs/side_small.py:debug --workdir=runs/debug
  ... --config=configs/side_small.py:shadows=16
  diffmem-side --config=configs/side_small.py:shadow=3 --workdir=...

Unconditional models are given conditions of their own making (Chen et al.,
arXiv 2410.02467): their images are clustered, a classifier of noised images
learns the clusters, and sampling is guided to them. Ten models in five pairs of
twins, each twin trained on the half of 598 images that the other never sees;
nothing is planted. Every bank is scored against both halves at the same rates
of false matches, which 599 further images set, and beside it plain sampling
and guidance by a classifier that knows no noise, as many images of each.

Arguments: `debug` (the same path in under a minute, too short to learn
anything), `seed=N`, `shadows=N` (an even number), `steps=N` (of training),
`shadow=I` (this run is of shadow I alone, in <workdir>/shadows/I).
"""

import ml_collections
from ml_collections.config_dict import placeholder

from diffmem import args


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is what follows the colon of --config."""
  given = args.parse(
    arg, debug=False, seed=0, shadows=10, shadow=int, steps=5000
  )
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
        held_out=598,  # the pool: each shadow trains on a half of it
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
      checkpoint_every=given.steps,
      preview_every=given.steps,
      preview=0,
      tensorboard=False,
    ),
    side=dict(
      synthetic=4096,  # images of the model, all that is learnt from
      features=dict(
        name="pixels",  # or descriptor, classifier, sscd, clip, dinov2
        path=placeholder(str),  # of weights
      ),
      clusters=dict(
        clusters=100,
        restarts=3,
        cohesion=0.5,  # clusters below are dropped
        least=20,  # and those with fewer images
        centre=True,  # what all images share tells no clusters apart
      ),
      classifier=dict(name="mlp", width=256, blocks=2, time_scale=1.0),
      training=dict(  # of every classifier and adapter
        aside=0.1,  # share of synthetic images that tells its accuracy
        steps=3000,
        batch=128,
        lr=1e-3,
        warmup=100,
        decay="cosine",
        clip=1.0,
        weight_decay=0.01,
        ema=0.999,
        log_every=100,
        checkpoint_every=3000,
      ),
      smoothing=0.0,  # of labels
      temperature=1.0,  # of distillation
      lora=dict(rank=4, alpha=4.0, kinds=("dense",)),
      # scratch: SIDE; distilled: its first version; plain: the baseline of a
      # classifier that knows no noise; lora: adapters, for large models.
      methods=("scratch", "distilled", "plain"),
      scales=(1.0, 2.0, 4.0, 8.0, 16.0),  # and 0: plain sampling
      n=1024,  # images at each scale
      sampler=dict(
        stepper="ddim",
        steps=50,
        eta=0.0,
        clip=True,
        batch=512,
        backend="pmap",
      ),
      scoring=dict(
        neighbours=50,
        alpha=0.5,
        rates=(0.002, 0.01),  # of false matches
        # Of the normalised l2; those of the paper are not known.
        bands=dict(high=(0.0, 1.4), mid=(1.4, 1.6), low=(1.6, 1.8)),
        duplicate=0.05,  # references that near count as one in d_1 / d_2
        budgets=(256, 512, 1024),
      ),
      gallery=8,  # clusters shown
    ),
    report=dict(
      title="Conditions of its own making: SIDE on handwritten digits",
      gallery=48,  # pairs of images shown
      labels=(),  # files of marks that people made on report/sheets.html
    ),
  )
  config = ml_collections.ConfigDict(sections).lock()
  if given.debug:
    config.update(
      data=dict(split=dict(shadows=min(given.shadows, 2))),
      models=dict(width=32, blocks=1),
      train=dict(
        steps=20, warmup=5, log_every=10, checkpoint_every=20, batch=32,
        preview_every=20,
      ),
      side=dict(
        synthetic=64,
        clusters=dict(clusters=4, restarts=1, cohesion=-1.0, least=1),
        classifier=dict(width=16, blocks=1),
        training=dict(
          steps=10, warmup=2, batch=32, log_every=5, checkpoint_every=5
        ),
        scales=(1.0,),
        n=32,
        sampler=dict(steps=4, batch=32),
        scoring=dict(budgets=(16, 32)),
        gallery=2,
      ),
    )  # fmt: skip
  return config
