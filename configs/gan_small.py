# SPDX-License-Identifier: Apache-2.0
"""A GAN on scikit-learn's handwritten digits, audited as a diffusion model is.

  diffmem-audit --config=configs/gan_small.py --workdir=runs/gan
  diffmem-audit --config=configs/gan_small.py:family=wgan_alp --workdir=...
  diffmem-audit --config=configs/gan_small.py:debug --workdir=runs/debug

The data, the split, the bank and the search are those of digits.py. The
families are those that Carlini et al. 2023 (arXiv:2301.13188, section 6)
compare with diffusion models, at a size for CPUs:

  stylegan_ada  StyleGAN2, logistic loss, R1, adaptive augmentation
                (Karras et al. 2020, arXiv:2006.06676)
  diffbiggan    BigGAN's blocks with classes, hinge loss, differentiable
                augmentation (Zhao et al. 2020, arXiv:2006.10738)
  e2gan         a searched generator, hinge loss (Tian et al. 2020,
                arXiv:2007.09180)
  nda           BigGAN's blocks, hinge loss, jigsaws of real images as
                negatives (Sinha et al. 2021, arXiv:2102.05113)
  wgan_alp      residual networks, Wasserstein loss, adversarial Lipschitz
                penalty (Terjek 2020, arXiv:1907.05681)

Members are told from others by the discriminator's logit, and by how near the
nearest generation is; with `shadows`, by LiRA on the logits of as many shadow
GANs too.

Arguments: `debug` (the same path in under a minute, too short to learn
anything), `seed=N`, `family=NAME`, `steps=N` (of training, in place of the
family's), `shadows=N` (0, or an even number, 4 or more), `shadow=I` (this run
is of shadow I alone, in <workdir>/shadows/I, as one job of many), `quality`
(also measure how good the generations are).
"""

import ml_collections
from ml_collections.config_dict import placeholder

from diffmem import args

_STYLE = dict(
  family="stylegan2",
  num_classes=None,
  latent=64,
  style=64,
  mapping=2,
  channel_base=512,
  channel_max=32,
  truncation=1.0,
  architecture="orig",
  group=16,
  label_mapping=2,
)
_BIG = dict(
  family="biggan",
  num_classes=None,
  latent=32,
  width=32,
  shared=None,
  hierarchical=False,
  discriminator_width=32,
)
_E2 = dict(
  family="e2gan",
  num_classes=None,
  latent=32,
  width=32,
  cells=(
    "post batch bilinear shortcut",
    "post batch deconv shortcut",
    "post batch bilinear shortcut skip0",
  ),
  discriminator_width=32,
)
_ADVERSARIAL = dict(
  loss="hinge",
  penalties=dict(),
  augment=dict(name="none"),
  negatives=None,
  updates=2,  # of the discriminator, for one of the generator
  discriminator_lr=4e-4,
  betas=(0.0, 0.999),
)
# family -> (networks, adversarial training, the generator's learning rate,
# steps)
FAMILIES = {
  "stylegan_ada": (
    _STYLE,
    dict(
      _ADVERSARIAL,
      loss="logistic",
      # With 0.1 it soon draws one digit only; docs/gans.md.
      penalties=dict(r1=dict(weight=3.0, every=4)),
      augment=dict(
        name="ada",
        blit=False,  # a mirrored digit is no digit
        geometry=True,
        colour=False,
        start=0.0,
        target=0.6,
        interval=4,
        images=50_000,  # as many until p may reach 1; published: 500,000
      ),
      updates=1,
      discriminator_lr=1e-2,  # published: 2.5e-3, too slow here; docs/gans.md
      betas=(0.0, 0.99),
    ),
    1e-2,
    4000,
  ),
  "diffbiggan": (
    dict(_BIG, num_classes=10),
    dict(
      _ADVERSARIAL,
      augment=dict(name="diffaugment", policy=("translation", "cutout")),
    ),
    4e-4,
    2000,
  ),
  "e2gan": (_E2, dict(_ADVERSARIAL, betas=(0.0, 0.9)), 4e-4, 1500),
  "nda": (
    _BIG,
    dict(_ADVERSARIAL, negatives=dict(name="jigsaw", share=0.25)),
    4e-4,
    1500,
  ),
  "wgan_alp": (
    dict(_BIG, family="resnet"),
    dict(
      _ADVERSARIAL,
      loss="wasserstein",
      penalties=dict(
        lipschitz=dict(
          weight=10.0, every=1, k=1.0, xi=10.0, least=0.1, most=10.0
        )
      ),
      updates=3,
      betas=(0.0, 0.9),
    ),
    4e-4,
    1000,  # each is dear: three updates of D, four passes in each
  ),
}


def quality() -> dict:
  """That of digits.py, but that a GAN has no denoising loss."""
  return dict(
    features=dict(
      name="classifier",
      path=placeholder(str),
      training=dict(steps=200, batch=128, seed=0),
    ),
    images=10_000,
    batch=256,
    groups=20,
    neighbours=dict(precision=3, coverage=5),
    loss=None,
  )


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is what follows the colon of --config."""
  given = args.parse(
    arg,
    debug=False,
    seed=0,
    family="stylegan_ada",
    steps=int,
    shadows=0,
    shadow=int,
    quality=False,
  )
  if given.family not in FAMILIES:
    raise ValueError(args.unknown("family", given.family, FAMILIES))
  if given.shadows and given.shadows < 4:
    raise ValueError(
      f"config argument shadows={given.shadows}: expected 0, or 4 or more"
    )
  networks, adversarial, lr, steps = FAMILIES[given.family]
  alone = given.shadow is not None  # no others to attack it with
  sections = dict(
    seed=given.seed,
    data=dict(
      source="digits",  # or npz:PATH, folder:PATH, tfds:NAME
      data_dir=placeholder(str),
      crop="none",
      resize=placeholder(int),
      filter="lanczos",
      split=dict(
        name="random",
        members=599,
        held_out=599,
        calibration=599,
        planted=((50, 4), (20, 6), (10, 4), (5, 4), (2, 4)),  # copies, images
        shadows=given.shadows,
        shadow=placeholder(int) if given.shadow is None else given.shadow,
        path=placeholder(str),
      ),
    ),
    models=networks,
    adversarial=adversarial,
    train=dict(
      batch=64,
      steps=steps if given.steps is None else given.steps,
      lr=lr,  # of the generator
      warmup=0,
      decay="constant",
      ema=0.998,  # of the generator
      flip=False,  # a mirrored digit is no digit
      log_every=100,
      checkpoint_every=500,
      preview_every=1000,
      preview=64,
      tensorboard=False,
    ),
    sample=dict(n=4096, batch=512, backend="pmap"),
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
      attacks=("discriminator",),
      t=(0,),  # a GAN has no others
      headline_t=placeholder(int),
      choose=0.2,
      criterion="auc",
      batch=512,
      bootstrap=1000,
      discriminator=dict(augment=("identity",), over="mean"),
      nearest=None if alone else dict(k=1),  # of the generations
      shadow_attacks=_with_shadows() if given.shadows and not alone else dict(),
      quantile=dict(
        attack="discriminator",
        components=16,
        fpr=0.05,
        regressor="linear",
        bags=7,
      ),
      gradients=None,
      audits=dict(
        canaries=None,
        one_run=None,
        sets=dict(
          sizes=(20, 50, 100, 200), alpha=0.01, resamples=50, learn=0.5
        ),
      ),
      by_step=False,
      generated=128,  # generations scored as a third class
      gallery=12,
      images=dict(neighbours=5, most=100_000),
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
      title=f"What a GAN ({given.family}) keeps of handwritten digits",
      gallery=48,
      labels=(),
    ),
  )
  if given.quality:
    sections["quality"] = quality()
  config = ml_collections.ConfigDict(sections).lock()
  if given.debug:
    _shorten(config)
  return config


def _with_shadows() -> dict:
  """LiRA on logits, which have either sign: no logarithm of them."""
  lira = dict(
    kind="lira",
    draws=1,
    augment=("identity",),
    variant="online",
    variance="fixed",
    statistic="loss",
    augmentations="mean",
  )
  return dict(lira=lira, lira_offline={**lira, "variant": "offline"})


def _shorten(config) -> None:
  config.train.update(steps=4, batch=16, log_every=2, checkpoint_every=2)
  config.train.update(preview_every=4, preview=16)
  config.sample.update(n=128, batch=64)
  config.membership.update(bootstrap=100, generated=32)
  config.membership.audits.sets.update(sizes=(20,), resamples=5)
  config.membership.quantile.bags = 1
  config.membership.controls.update(draws=20, permutations=20, trees=10)
  if "quality" in config:
    config.quality.features.training.steps = 2
    config.quality.groups = 5
