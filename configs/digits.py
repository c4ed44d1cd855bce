# SPDX-License-Identifier: Apache-2.0
"""A DDPM on scikit-learn's handwritten digits: the whole audit on a laptop.

  diffmem-audit --config=configs/digits.py --workdir=runs/digits
  diffmem-audit --config=configs/digits.py:seed=1 --workdir=runs/digits_1
  diffmem-audit --config=configs/digits.py:debug --workdir=runs/debug

1,797 real images of 8 x 8 pixels, nothing to download. A third are members,
a third are held out, a third calibrate the rule of extraction. Some members
are planted (4 are seen 50 times, 6 twenty times, and so on), so that it is
known what there is to find. A small U-Net is trained on them (Ho et al. 2020,
arXiv:2006.11239), 4,096 images are sampled (DDIM, Song et al. 2021,
arXiv:2010.02502) and searched for training images (Carlini et al. 2023,
arXiv:2301.13188), and seven attacks tell members from others.

Arguments: `debug` (the same path in under a minute, too short to learn
anything), `seed=N`, `mitigation=amg` (sampled away from training images),
`quality` (also measure how good the generations are).
"""

import ml_collections
from ml_collections.config_dict import placeholder

from diffmem import args

MITIGATIONS = {
  "none": None,
  # Chen et al. 2024; their thresholds for CIFAR-10 are 1.95 and 1.5, but
  # digits of one kind are that close to each other.
  "amg": dict(
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
  ),
}


def quality() -> dict:
  """The section of the stage that measures how good generations are."""
  return dict(
    features=dict(
      name="classifier",  # or inception, pixels, file, clip, ...
      path=placeholder(str),  # of weights, or of embeddings
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
  given = args.parse(arg, debug=False, seed=0, mitigation="none", quality=False)
  if given.mitigation not in MITIGATIONS:
    raise ValueError(args.unknown("mitigation", given.mitigation, MITIGATIONS))
  sections = dict(
    seed=given.seed,
    data=dict(
      source="digits",  # or npz:PATH, folder:PATH, tfds:NAME
      data_dir=placeholder(str),  # where tfds keeps its datasets
      crop="none",
      resize=placeholder(int),
      filter="lanczos",
      split=dict(
        name="random",
        members=599,
        held_out=599,
        calibration=599,
        planted=((50, 4), (20, 6), (10, 4), (5, 4), (2, 4)),  # copies, images
        shadows=0,
        shadow=placeholder(int),  # none: the main model
        path=placeholder(str),
      ),
    ),
    models=dict(
      name="unet",
      num_classes=placeholder(int),  # none: unconditional
      dtype="float32",
      width=16,
      multipliers=(1, 2),
      blocks=1,
      attention=(),
      heads=1,
      middle="dense",
      dropout=0.0,
      scale_shift=False,
      groups=8,
      time_scale=1.0,
      conventions="ho",
    ),
    diffusion=dict(
      schedule=dict(name="linear", steps=1000),
      prediction="eps",
      loss="mse",
    ),
    train=dict(
      batch=64,
      steps=4000,
      lr=2e-3,
      warmup=200,
      decay="cosine",
      clip=1.0,
      ema=0.999,
      flip=False,  # a mirrored digit is no digit
      label_dropout=0.0,
      log_every=100,
      checkpoint_every=500,
      preview_every=1000,
      preview=64,
      tensorboard=False,
    ),
    sample=dict(
      n=4096,
      batch=512,
      stepper="ddim",
      eta=0.0,
      steps=50,
      guidance=1.0,
      clip=True,
      backend="pmap",
      mitigation=MITIGATIONS[given.mitigation],
    ),
    distances=dict(k=51, block=2048, mirror=False),
    features=dict(  # a second distance
      name=placeholder(str),  # descriptor, classifier, clip, ...; none: no
      path=placeholder(str),  # of weights, or of embeddings
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
      attacks=("loss", "secmi", "pia", "pian", "sima", "pfami", "rediffuse"),
      t=(10, 30, 100, 300),
      headline_t=placeholder(int),  # none: chosen on images set aside
      choose=0.2,  # of members seen once, and of held-out images
      criterion="auc",  # what is best there; or tpr@0.01
      batch=512,
      bootstrap=1000,
      # One section an attack; `t` there takes the place of the one above.
      loss=dict(draws=16, augment=("identity",), over="mean"),
      secmi=dict(t=(10, 30, 100), interval=10, mode="paper"),
      pia=dict(p=4, normalise="none"),
      pian=dict(p=4, normalise="consistent"),
      sima=dict(p=4),
      pfami=dict(
        t=(100,),
        points=5,
        crops=4,
        weakest=0.95,
        strongest=0.7,
        draws=1,
        whole_pixels=False,
        crop="mean",
        change="relative",
      ),
      rediffuse=dict(t=(100,), interval=50, repeats=10, norm=2),
      shadow_attacks=dict(),  # see digits_membership.py
      quantile=dict(  # thresholds for each image, learnt on calibration
        attack="loss", components=16, fpr=0.05, regressor="linear", bags=7
      ),
      gradients=None,  # needs shadow models, see digits_membership.py
      audits=dict(
        canaries=None,  # see digits_audits.py
        one_run=None,
        sets=dict(
          sizes=(20, 50, 100, 200), alpha=0.01, resamples=50, learn=0.5
        ),
      ),
      by_step=False,  # attack earlier checkpoints too
      generated=128,  # generations scored as a third class
      gallery=12,  # easiest and hardest images of each kind
      images=dict(neighbours=5, most=100_000),  # who are outliers
      controls=dict(
        draws=200,
        permutations=200,
        components=32,
        trees=50,
        folds=5,
        images=20_000,
      ),
    ),
    report=dict(
      title="What a DDPM keeps of handwritten digits",
      gallery=48,  # pairs of images shown
      labels=(),  # files of marks that people made on report/sheets.html
    ),
  )
  if given.quality:
    sections["quality"] = quality()
  config = ml_collections.ConfigDict(sections).lock()
  if given.debug:
    _shorten(config)
  return config


def _shorten(config) -> None:
  config.train.update(steps=20, warmup=5, log_every=5, checkpoint_every=10)
  config.train.update(preview_every=20, preview=16)
  config.sample.update(n=128, batch=64, steps=5)
  config.membership.update(t=(10, 100), bootstrap=100, generated=32)
  config.membership.loss.draws = 2
  config.membership.audits.sets.update(sizes=(20,), resamples=5)
  config.membership.quantile.bags = 1
  config.membership.secmi.t = (10,)
  config.membership.pfami.update(points=2, crops=2)
  config.membership.rediffuse.update(t=(10,), repeats=2)
  if "quality" in config:
    config.quality.features.training.steps = 2
    config.quality.groups = 5
    config.quality.loss.update(times=2, draws=1)
  config.membership.controls.update(draws=20, permutations=20, trees=10)
