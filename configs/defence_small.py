# SPDX-License-Identifier: Apache-2.0
"""What a defence changes, on handwritten digits: the same attacks each time.

  diffmem-audit --config=defence_small.py --workdir=runs/none
  diffmem-audit --config=defence_small.py:defence=dedup --workdir=runs/dedup
  diffmem-audit --config=defence_small.py:defence=dp_low --workdir=runs/low

599 of 1,797 digits are members, 22 of them in training 2 to 50 times; a small
network is trained on them with one defence or none, for the same number of
steps, sampled, searched for training images and attacked. Split, seeds and
attacks are those of every other arm, so that two workdirs differ by the
defence alone:

  none     no defence
  dedup    near-duplicates in training removed, planted copies among them
  dp_high  DP-SGD at epsilon 50 for an image that is seen once
  dp_low   DP-SGD at epsilon 8
  dp_clip  gradients clipped one by one as in DP-SGD, without its noise
  augment  each image moved by up to one pixel when it is seen
  early    a quarter of the steps
  amg      sampled away from training images (Chen et al. 2024)

Arguments: `debug` (the same path in under a minute, too short to learn
anything), `seed=N`, `defence=...`, `steps=N`, `ema=X` (0 for none), `quality`
(also measure how good the generations are), `coins` (each image of a pool is
put in or left out by a coin, nothing is planted and nothing sampled, so that
one run bounds epsilon from below).
"""

import ml_collections
from ml_collections.config_dict import placeholder

from diffmem import args

PLANTED = ((50, 4), (20, 6), (10, 4), (5, 4), (2, 4))  # copies, images


def _private(epsilon=None, noise_multiplier=None):
  return dict(
    noise_multiplier=noise_multiplier,
    epsilon=epsilon,  # of an image that is seen once
    delta=1e-4,
    clip=0.5,
    microbatch=16,
  )


# What differs from no defence, by section.
DEFENCES = {
  "none": {},
  "dedup": dict(
    data=dict(dedup=dict(by="pixels", threshold=0.05, gallery=24)),
  ),
  "dp_high": dict(train=dict(privacy=_private(epsilon=50.0))),
  "dp_low": dict(train=dict(privacy=_private(epsilon=8.0))),
  "dp_clip": dict(train=dict(privacy=_private(noise_multiplier=0.0))),
  "augment": dict(train=dict(shift=1)),
  "early": {},
  "amg": dict(
    sample=dict(
      mitigation=dict(
        name="amg",
        similarity=10.0,
        despecify=0.0,  # without conditions there is nothing to weaken
        deduplicate=0.0,
        early=1.0,  # normalized distances below which it acts
        late=1.0,
        decay=6.25,
        alpha=0.5,
        neighbours=50,
        through="x0",
      )
    )
  ),
}


def _quality():
  return dict(
    features=dict(
      name="pixels",  # of 8 x 8 images; or classifier, inception, ...
      path=placeholder(str),
      training=dict(steps=200, batch=128, seed=0),  # of the small classifier
    ),
    images=10_000,  # of each set, no more than the smallest has
    batch=256,
    groups=20,  # of images that are left out in turn, for intervals
    neighbours=dict(precision=3, coverage=5),
    loss=dict(times=20, draws=4),  # of members and held-out images
  )


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is what follows the colon of --config."""
  given = args.parse(
    arg,
    debug=False,
    seed=0,
    defence="none",
    steps=4000,
    ema=0.999,
    quality=False,
    coins=False,
  )
  if given.defence not in DEFENCES:
    raise ValueError(args.unknown("defence", given.defence, DEFENCES))
  steps = given.steps // 4 if given.defence == "early" else given.steps
  sections = _sections(given.seed, steps, given.ema)
  if given.quality:
    sections["quality"] = _quality()
  if given.coins:
    for stage in ("sample", "distances", "features", "extraction"):
      del sections[stage]
    sections.pop("quality", None)
    sections["data"]["split"].update(name="bernoulli", planted=())
    one_run = dict(delta=1e-4, significance=0.05, outside=0.5, part=0.3)
    sections["membership"]["audits"]["one_run"] = one_run
    sections["membership"]["generated"] = 0
  for name, changes in DEFENCES[given.defence].items():
    if name in sections:
      sections[name].update(changes)
  config = ml_collections.ConfigDict(sections).lock()
  if given.debug:
    _shorten(config)
  return config


def _sections(seed: int, steps: int, ema: float) -> dict:
  """Without defence."""
  return dict(
    seed=seed,
    data=dict(
      source="digits",
      data_dir=placeholder(str),
      crop="none",
      resize=placeholder(int),
      filter="lanczos",
      split=dict(
        name="random",
        members=599,
        held_out=599,
        calibration=599,
        planted=PLANTED,
        shadows=0,
        shadow=placeholder(int),
        path=placeholder(str),
      ),
      dedup=None,
    ),
    models=dict(
      name="mlp",
      num_classes=placeholder(int),
      dtype="float32",
      width=128,
      blocks=3,
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
      steps=steps,
      lr=2e-3,
      warmup=min(200, steps),
      decay="cosine",
      clip=1.0,
      ema=ema,
      flip=False,  # a mirrored digit is no digit
      shift=0,  # pixels that an image is moved by
      privacy=None,  # see _private
      label_dropout=0.0,
      log_every=100,
      checkpoint_every=500,
      preview_every=steps,
      preview=64,
      tensorboard=False,
    ),
    sample=dict(
      n=4096,
      batch=512,
      stepper="ddim",
      eta=0.0,
      steps=25,
      guidance=1.0,
      clip=True,
      backend="pmap",
      mitigation=None,
    ),
    distances=dict(k=51, block=2048, mirror=False),
    features=dict(  # a second distance
      name=placeholder(str),
      path=placeholder(str),
      mirror=False,
      batch=256,
    ),
    extraction=dict(
      alpha=0.5,
      neighbours=50,
      centring="generation",
      false_match_rate=0.001,
      gallery=48,
    ),
    membership=dict(
      attacks=("loss", "pia", "sima"),
      t=(10, 30, 100),
      headline_t=placeholder(int),  # none: chosen on images set aside
      choose=0.2,  # of members seen once, and of held-out images
      criterion="auc",
      batch=512,
      bootstrap=1000,
      loss=dict(draws=16, augment=("identity",), over="mean"),
      pia=dict(p=4, normalise="none"),
      sima=dict(p=4),
      shadow_attacks=dict(),
      quantile=None,
      gradients=None,
      audits=dict(canaries=None, one_run=None, sets=None),
      by_step=False,
      generated=128,
      gallery=12,
      images=dict(neighbours=5, most=100_000),  # who are outliers
      controls=dict(
        draws=100,
        permutations=100,
        components=32,
        trees=50,
        folds=5,
        images=20_000,
      ),
    ),
    report=dict(
      title="What a defence changes",
      gallery=48,
      labels=(),
    ),
  )


def _shorten(config) -> None:
  config.train.update(steps=20, warmup=5, log_every=5, checkpoint_every=10)
  config.train.update(preview_every=20, preview=16)
  if config.train.privacy is not None:
    config.train.privacy.microbatch = 32
    if config.train.privacy.epsilon is not None:
      config.train.privacy.epsilon = 5.0  # few steps reach more without noise
  if "sample" in config:
    config.sample.update(n=128, batch=64, steps=5)
    config.membership.generated = 32
  config.membership.update(t=(10, 100), bootstrap=100)
  config.membership.loss.draws = 2
  config.membership.controls.update(draws=20, permutations=20, trees=10)
  if "quality" in config:
    config.quality.groups = 5
    config.quality.loss.update(times=2, draws=1)
