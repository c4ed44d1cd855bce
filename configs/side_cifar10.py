# SPDX-License-Identifier: Apache-2.0
"""SIDE at the size of its paper: a DDPM of CIFAR-10.

  diffmem-audit --config=configs/side_cifar10.py --workdir=runs/side_cifar10
  diffmem-audit --config=configs/side_cifar10.py:debug --workdir=runs/debug
  ... --config=configs/side_cifar10.py:source=npz:cifar10.npz

After Chen et al. (arXiv:2410.02467v7): an unconditional model, 100 clusters of
its images of cohesion 0.5 or more, a ResNet-34 that knows the time, AdamW at
1e-4 in batches of 64, 10,000 images at each strength of guidance, nearness by
the normalised l2. What the paper does not state is our choice: the number of
synthetic images, the classifier's training length, DDIM's 50 steps, the
strengths. The paper trains on all images and has no control; here the model is
trained on 25,000 and scored against as many others too.

Features are descriptors, which need no download; the paper's are SSCD:
  --config.side.features.name=sscd --config.side.features.path=WEIGHTS

Needs an accelerator, and `tfds:cifar10` prepared once as array_record (the
message says how) or the training set as an npz file.

Arguments: `debug` (the same path in about a minute: narrow networks on
handwritten digits), `seed=N`, `source=...` (npz:PATH, folder:PATH or
tfds:NAME).
"""

import ml_collections
from ml_collections.config_dict import placeholder

from diffmem import args


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is what follows the colon of --config."""
  given = args.parse(arg, debug=False, seed=0, source="tfds:cifar10")
  sections = _sections(given)
  if given.debug:
    if given.source == "tfds:cifar10":
      sections["data"]["source"] = "digits"
    sections["data"]["split"].update(members=200, held_out=200, calibration=200)
    sections["models"].update(width=16, multipliers=(1, 2), attention=(4,))
    sections["models"].update(blocks=1, groups=8)
    sections["train"].update(batch=16, steps=10, warmup=5, flip=False)
    sections["train"].update(log_every=5, checkpoint_every=5, preview=0)
    side = sections["side"]
    side.update(synthetic=64, scales=(1.0,), n=16, gallery=2)
    side["clusters"].update(clusters=4, restarts=1, cohesion=-1.0, least=1)
    side["classifier"].update(width=8, multipliers=(1, 2), blocks=(1, 1))
    side["classifier"].update(groups=4)
    side["training"].update(steps=10, warmup=2, batch=16, log_every=5)
    side["training"].update(checkpoint_every=5)
    side["sampler"].update(steps=4, batch=16)
    side["scoring"]["budgets"] = (8, 16)
  return ml_collections.ConfigDict(sections).lock()


def _sections(given) -> dict:
  return dict(
    seed=given.seed,
    data=dict(
      source=given.source,
      data_dir=placeholder(str),  # where tfds keeps its datasets
      crop="none",
      resize=placeholder(int),
      filter="lanczos",
      split=dict(
        name="random",
        members=25_000,
        held_out=20_000,
        calibration=4_900,
        planted=(),
        shadows=0,
        shadow=placeholder(int),
        path=placeholder(str),
      ),
    ),
    models=dict(
      name="unet",
      num_classes=placeholder(int),  # none: unconditional
      dtype="float32",
      width=128,
      multipliers=(1, 2, 2, 2),
      blocks=2,
      attention=(16,),
      heads=1,
      middle="attention",
      dropout=0.1,
      scale_shift=False,
      groups=32,
      time_scale=1.0,
      conventions="ho",
    ),
    diffusion=dict(
      schedule=dict(name="linear", steps=1000),
      prediction="eps",
      loss="mse",
    ),
    train=dict(
      batch=128,
      steps=400_000,  # 2,048 epochs, as in the paper
      lr=2e-4,
      warmup=5_000,
      decay="constant",
      clip=1.0,
      ema=0.9999,
      flip=True,
      label_dropout=0.0,
      log_every=500,
      checkpoint_every=10_000,
      preview_every=400_000,
      preview=0,
      tensorboard=False,
    ),
    side=dict(
      synthetic=50_000,
      features=dict(name="descriptor", path=placeholder(str)),
      clusters=dict(
        clusters=100, restarts=10, cohesion=0.5, least=20, centre=False
      ),
      classifier=dict(
        name="resnet",
        width=64,
        multipliers=(1, 2, 4, 8),
        blocks=(3, 4, 6, 3),
        groups=32,
        time_scale=1.0,
      ),
      training=dict(
        aside=0.1,
        steps=100_000,
        batch=64,
        lr=1e-4,
        warmup=1_000,
        decay="constant",
        clip=1.0,
        weight_decay=0.01,
        ema=0.999,
        log_every=500,
        checkpoint_every=10_000,
      ),
      smoothing=0.1,
      temperature=1.0,
      lora=dict(rank=4, alpha=4.0, kinds=("attention", "convolution")),
      methods=("scratch", "plain"),
      scales=(1.0, 2.0, 5.0, 7.0, 9.0, 15.0, 30.0),
      n=10_000,
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
        rates=(0.0005, 0.002, 0.01),
        bands=dict(high=(0.0, 1.4), mid=(1.4, 1.6), low=(1.6, 1.8)),
        duplicate=0.05,
        budgets=(1_000, 3_000, 10_000),
      ),
      gallery=24,
    ),
    report=dict(
      title="SIDE on CIFAR-10",
      gallery=96,
      labels=(),  # files of marks that people made on report/sheets.html
    ),
  )
