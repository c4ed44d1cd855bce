# SPDX-License-Identifier: Apache-2.0
"""The published extraction experiment: a DDPM on half of CIFAR-10.

  diffmem-audit --config=configs/cifar10_ddpm.py --workdir=runs/cifar10
  diffmem-audit --config=configs/cifar10_ddpm.py:debug --workdir=runs/debug
  ... --config=configs/cifar10_ddpm.py:source=npz:cifar10.npz
  ... --config=configs/cifar10_ddpm.py:split=secmi-cifar10,path=FILE.npz
  ... --config=configs/cifar10_ddpm.py:subset=1000,source=npz:cifar10.npz
  diffmem-train --config=configs/cifar10_ddpm.py:shadows=16,shadow=3 ...

After section 5 of Carlini et al. 2023 (arXiv:2301.13188): an unconditional
model trained on 25,000 images, 2^16 samples, searched for training images by
the ratio to the 50 nearest (alpha 0.5). The paper does not state its training
in full; network and training are those of Ho et al. 2020 (arXiv:2006.11239),
which the literature on membership uses too. Of the other 25,000 images,
20,000 are the control and the rest, less exact duplicates, calibrates.

Needs an accelerator, and `tfds:cifar10` prepared once as array_record (the
message says how) or the training set as an npz file.

Arguments:
  debug          the same path in under a minute: a narrow network on
                 scikit-learn's digits, the only source that needs no file
  seed=N
  source=...     npz:PATH, folder:PATH or tfds:NAME in place of tfds:cifar10
  split=NAME     random, or secmi-cifar10: members as published by Duan et al.
                 2023, the others half control and half calibration; the
                 network then is the one whose weights they published (see
                 diffmem-convert)
  path=FILE      of the published split, CIFAR10_train_ratio0.5.npz
  shadows=N      an even number of shadow models, for membership, 6 or more;
                 each trains on its own half of members and held-out images
  shadow=I       this run is of shadow I alone, in <workdir>/shadows/I: give
                 each its own job, all of them the same shadows=N
  subset=N       an experiment for one accelerator and a few hours: N members,
                 1,000 to 10,000, some planted, as many held out; a network of
                 half the width in bfloat16, 60,000 steps, 50 steps of DDIM
  quality        also measure how good the generations are
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
    source="tfds:cifar10",
    split="random",
    path=None,
    shadows=0,
    shadow=int,
    subset=int,
    quality=False,
  )
  random = given.split == "random"
  sections = dict(
    seed=given.seed,
    data=dict(
      source=given.source,
      data_dir=placeholder(str),  # where tfds keeps its datasets
      crop="none",
      resize=placeholder(int),
      filter="lanczos",
      split=dict(
        name=given.split,
        members=25_000 if random else placeholder(int),
        held_out=20_000 if random else placeholder(int),
        calibration=4_900 if random else placeholder(int),
        planted=(),
        shadows=given.shadows,
        # None: the main model. Each shadow has a workdir in shadows/.
        shadow=placeholder(int) if given.shadow is None else given.shadow,
        path=given.path or placeholder(str),
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
      conventions="ho" if random else "torch",  # as its weights are
    ),
    diffusion=dict(
      schedule=dict(name="linear", steps=1000),
      prediction="eps",
      loss="mse",
    ),
    train=dict(
      batch=128,
      steps=800_000,
      lr=2e-4,
      warmup=5_000,
      decay="constant",
      clip=1.0,
      ema=0.9999,
      flip=True,
      label_dropout=0.0,
      log_every=500,
      checkpoint_every=10_000,
      preview_every=10_000,
      preview=64,
      tensorboard=False,
    ),
    sample=dict(
      n=65_536,
      batch=1024,
      stepper="ddim",
      eta=0.0,
      steps=250,
      guidance=1.0,
      clip=True,
      backend="pmap",
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
      gallery=96,
    ),
    membership=dict(
      attacks=(
        "loss",
        "secmi",
        "secmi_nn",
        "pia",
        "pian",
        "sima",
        "pfami",
        "rediffuse",
      ),
      t=(50, 100, 200, 300),
      headline_t=placeholder(int),  # none: chosen on images set aside
      choose=0.2,  # of members seen once, and of held-out images
      criterion="tpr@0.01",  # what is best there; or auc
      batch=512,
      bootstrap=1000,
      # One section an attack; `t` there takes the place of the one above.
      loss=dict(draws=20, augment=("identity", "flip"), over="mean"),
      secmi=dict(interval=10, mode="paper"),
      secmi_nn=dict(
        t=(100,),
        interval=10,
        mode="paper",
        width=32,
        epochs=30,
        lr=1e-3,
        decay=1e-3,
        minibatch=128,
        validation=0.25,
      ),
      pia=dict(p=4, normalise="none"),
      pian=dict(p=4, normalise="consistent"),
      sima=dict(t=(10, 50, 100, 200), p=4),
      pfami=dict(
        t=(450,),
        points=10,
        crops=10,
        weakest=0.95,
        strongest=0.7,
        draws=1,
        whole_pixels=False,
        crop="mean",
        change="relative",
      ),
      rediffuse=dict(t=(200,), interval=100, repeats=10, norm=2),
      shadow_attacks=_with_shadows()
      if given.shadows and given.shadow is None
      else dict(),
      quantile=dict(  # thresholds for each image, learnt on calibration
        attack="loss", components=16, fpr=0.05, regressor="boosting", bags=7
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
      generated=5_000,  # generations scored as a third class
      gallery=24,  # easiest and hardest images of each kind
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
      title="What a DDPM keeps of CIFAR-10",
      gallery=96,  # pairs of images shown
      labels=(),  # files of marks that people made on report/sheets.html
    ),
  )
  if given.subset is not None:
    _subset(sections, given.subset)
  if given.quality:
    sections["quality"] = _quality()
  config = ml_collections.ConfigDict(sections).lock()
  if given.debug:
    if given.source == "tfds:cifar10":
      config.data.source = "digits"
    if random:
      config.data.split.update(members=100, held_out=100, calibration=100)
    if given.subset is not None:
      config.data.split.planted = ((20, 2),)
    if given.quality:
      config.quality.features.training.steps = 2
      config.quality.groups = 5
      config.quality.loss.update(times=2, draws=1)
    config.models.update(width=16, multipliers=(1, 2), attention=())
    config.models.update(blocks=1, groups=8)
    config.train.update(batch=16, steps=10, warmup=5, flip=False)
    config.train.update(log_every=5, checkpoint_every=5, preview_every=10)
    config.train.update(preview=16)
    config.sample.update(n=64, batch=32, steps=5)
    config.membership.update(t=(50, 100), bootstrap=100, generated=32)
    config.membership.update(choose=0.3, criterion="auc")
    config.membership.loss.draws = 2
    config.membership.secmi_nn.update(t=(50,), width=4, epochs=2, minibatch=8)
    config.membership.audits.sets.update(sizes=(20,), resamples=5)
    if config.membership.quantile is not None:
      config.membership.quantile.bags = 1
    config.membership.sima.t = (10, 50)
    config.membership.pfami.update(t=(100,), points=2, crops=2)
    config.membership.rediffuse.update(t=(100,), repeats=2)
    config.membership.controls.update(draws=20, permutations=20, trees=10)
    for section in config.membership.shadow_attacks.values():
      section.draws = min(section.draws, 2)
  return config


def _subset(sections: dict, members: int) -> None:
  """Fewer images and a smaller network, where one accelerator has hours."""
  split = sections["data"]["split"]
  if split["name"] != "random" or not 1_000 <= members <= 10_000:
    raise ValueError(
      f"config argument subset={members}: expected 1000 to 10000, of the "
      "random split"
    )
  split.update(
    members=members,
    held_out=members,
    calibration=members // 2,
    planted=((64, 8), (16, 8), (4, 16)),  # copies, images
  )
  sections["models"].update(width=64, dtype="bfloat16")
  sections["train"].update(steps=60_000, checkpoint_every=5_000)
  sections["sample"]["steps"] = 50
  sections["membership"].update(
    attacks=("loss", "pia", "sima"), quantile=None, generated=1_000
  )


def _quality() -> dict:
  """That of digits.py."""
  return dict(
    features=dict(
      name="classifier",  # or inception, with weights, for the FID
      path=placeholder(str),
      training=dict(steps=200, batch=128, seed=0),
    ),
    images=10_000,
    batch=256,
    groups=20,
    neighbours=dict(precision=3, coverage=5),
    loss=dict(times=20, draws=4),
  )


def _with_shadows() -> dict:
  """Attacks with shadow models, and the loss threshold on the same targets.

  As in section 5.2 of Carlini et al. 2023: out of the box, one draw of noise;
  strong, the mean over 20 draws and both mirror images.
  """
  both = ("identity", "flip")
  lira = dict(
    kind="lira",
    draws=20,
    augment=both,
    variant="online",
    variance="fixed",
    statistic="log",
    augmentations="mean",
  )
  rmia = dict(
    kind="rmia",
    draws=20,
    augment=both,
    variant="online",
    population=None,
    gamma=1.0,
    a=1.0,
    statistic="log",
    scale=1.0,
    break_ties=False,
  )
  plain = dict(draws=1, augment=("identity",))
  return dict(
    lira=lira,
    lira_one_draw={**lira, **plain},
    lira_per_example={**lira, "variance": "example"},
    lira_offline={**lira, "variant": "offline"},
    rmia=rmia,
    rmia_offline={**rmia, "variant": "offline"},
    loss_threshold=dict(kind="loss", draws=20, augment=both),
    loss_one_draw=dict(kind="loss", **plain),
  )
