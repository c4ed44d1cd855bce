# SPDX-License-Identifier: Apache-2.0
"""SIDE at the size of its paper: DDPMs of CelebA, 128 x 128.

  diffmem-audit --config=configs/side_celeba.py --workdir=runs/side_celeba
  ... --config=configs/side_celeba.py:subset=all
  ... --config=configs/side_celeba.py:subset=identity,source=folder:CelebA-HQ-FI
  ... --config=configs/side_celeba.py:debug --workdir=runs/debug

After Chen et al. (arXiv:2410.02467v7), with what it does not state chosen as in
side_cifar10.py; the network is our choice too (channels as in Dhariwal and
Nichol 2021 at this size, half as wide). Three sets, as there: the facial
identity subset of CelebA-HQ (a folder: it is no TensorFlow dataset), 25,000
images, and all. The paper trains on all of a set and has no control; here a
part of each is held out to score against, and a part calibrates.

Features are descriptors, which need no download; the paper has SSCD, and so
are its similarities; here images are scored by the normalised l2.
  --config.side.features.name=sscd --config.side.features.path=WEIGHTS

Needs accelerators, 32 GB of memory for `subset=all`, and `tfds:celeb_a`
prepared once as array_record (the message says how) or a folder of images.

Arguments: `debug` (the same path in about a minute: narrow networks on
handwritten digits), `seed=N`, `subset=25000` (or `identity`, `all`),
`source=...` (npz:PATH, folder:PATH or tfds:NAME).
"""

import ml_collections
from ml_collections.config_dict import placeholder

from diffmem import args

# members, held out, calibration; epochs; images at each strength: as there.
SUBSETS = {
  "identity": (3_478, 1_000, 1_000, 3_000, 51_200),
  "25000": (25_000, 25_000, 5_000, 1_000, 50_000),
  "all": (140_000, 20_000, 2_000, 1_000, 5_120),
}


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is what follows the colon of --config."""
  given = args.parse(
    arg, debug=False, seed=0, subset="25000", source="tfds:celeb_a"
  )
  if given.subset not in SUBSETS:
    raise ValueError(
      f"config argument subset={given.subset}: expected one of "
      f"{', '.join(SUBSETS)}"
    )
  tfds = given.source == "tfds:celeb_a"
  if given.subset == "identity" and tfds and not given.debug:
    raise ValueError(
      "config argument subset=identity: give its images, source=folder:PATH"
    )
  sections = _sections(given)
  if given.debug:
    if tfds:
      sections["data"]["source"] = "digits"
    sections["data"].update(crop="none", resize=8)
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
  members, held_out, calibration, epochs, n = SUBSETS[given.subset]
  steps = members * epochs // 128
  return dict(
    seed=given.seed,
    data=dict(
      source=given.source,
      data_dir=placeholder(str),  # where tfds keeps its datasets
      crop="center",
      resize=128,
      filter="lanczos",
      split=dict(
        name="random",
        members=members,
        held_out=held_out,
        calibration=calibration,
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
      multipliers=(1, 1, 2, 3, 4),
      blocks=2,
      attention=(16, 8),
      heads=4,
      middle="attention",
      dropout=0.0,
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
      steps=steps,
      lr=1e-4,
      warmup=5_000,
      decay="constant",
      clip=1.0,
      ema=0.9999,
      flip=True,
      label_dropout=0.0,
      log_every=500,
      checkpoint_every=10_000,
      preview_every=steps,
      preview=0,
      tensorboard=False,
    ),
    side=dict(
      synthetic=20_000,
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
      n=n,
      sampler=dict(
        stepper="ddim",
        steps=50,
        eta=0.0,
        clip=True,
        batch=64,
        backend="pmap",
      ),
      scoring=dict(
        neighbours=50,
        alpha=0.5,
        rates=(0.0005, 0.002, 0.01),
        bands=dict(high=(0.0, 1.4), mid=(1.4, 1.6), low=(1.6, 1.8)),
        duplicate=0.05,
        budgets=(n // 10, n // 3, n),
      ),
      gallery=24,
    ),
    report=dict(
      title="SIDE on faces",
      gallery=96,
      labels=(),  # files of marks that people made on report/sheets.html
    ),
  )
