# SPDX-License-Identifier: Apache-2.0
"""The attack by prompt on a small text-to-image cascade whose truth is known.

  diffmem-audit --config=configs/imagen_small.py --workdir=runs/imagen_small
  diffmem-audit --config=configs/imagen_small.py:twin=runs/imagen_small \
    --workdir=runs/imagen_twin
  diffmem-audit --config=configs/imagen_small.py:debug --workdir=runs/debug

2,400 captioned scenes of 16 x 16 pixels, composed of scikit-learn's handwritten
digits; nothing to download. About seven different images share each caption,
but 24 images are planted: they stand in training 20, 40 or 80 times, with
their captions. A base with captions makes 8 x 8 images and a super-resolution
stage 16 x 16 of them (Saharia et al. 2022, arXiv:2205.11487, at CPU size). As
in sections 4.2 to 4.4 of Carlini et al. 2023 (arXiv:2301.13188), captions of
the most duplicated images, of outliers, and ordinary ones are given as prompts,
64 images each, and prompts are ranked by cliques of images that are alike,
without a look at the training set; who was planted then says how good the
ranking is. Detectors that see the model and no image (Wen et al. 2024, Webster
2023) score the captions too, and the base is attacked as others are.

Arguments:
  debug       the same path in under a minute, too short to learn anything
  seed=N
  twin=DIR    the same without duplicates, asked the prompts of the run in DIR:
              what the attack says of them then is its false alarms
"""

import ml_collections
from ml_collections.config_dict import placeholder

from diffmem import args

MODELS = dict(
  name="imagen",
  num_classes=placeholder(int),
  dtype="float32",
  text=(19, 32),  # tokens of a caption, numbers of a token
  low=placeholder(int),  # none: the base
  width=16,
  multipliers=(1, 2),
  blocks=(1, 1),
  halve_first=False,
  attention=(),
  cross=(4,),
  context=32,
  head_channels=16,
  skips="level",
  middle=True,
  dropout=0.0,
  groups=8,
  time_scale=1.0,
)
CHAIN = dict(stepper="ddim", steps=50, eta=0.0, guidance=1.0, clip=True)


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is what follows the colon of --config."""
  given = args.parse(arg, debug=False, seed=0, twin=None)
  planted = ((80, 8), (40, 8), (20, 8))  # copies, images
  table = placeholder(str)  # prompts of another run; none: chosen here
  if given.twin is not None:
    planted, table = (), f"{given.twin}/choose/prompts_chosen.csv"
  sections = dict(
    seed=given.seed,
    data=dict(
      source="scenes:200x12",  # or any source with captions
      data_dir=placeholder(str),  # where tfds keeps its datasets
      crop="none",
      resize=placeholder(int),
      filter="lanczos",
      split=dict(
        name="random",
        members=1400,
        held_out=500,
        calibration=500,
        planted=planted,
        shadows=0,
        shadow=placeholder(int),  # none: the main model
        path=placeholder(str),
      ),
      captions=dict(
        encoder="hashed",  # or t5, file
        path=placeholder(str),  # of T5's weights, or of embeddings
        length=19,
        features=32,
        cut=False,  # captions that are longer
      ),
      upsampler=placeholder(int),  # train this stage alone
    ),
    models=dict(MODELS),
    diffusion=dict(
      schedule=dict(name="cosine", steps=1000),
      prediction="v",
      loss="mse",
    ),
    train=dict(
      batch=64,
      steps=10_000,
      lr=2e-3,
      warmup=200,
      decay="cosine",
      clip=1.0,
      ema=0.999,
      flip=False,  # a mirrored digit is no digit
      label_dropout=0.1,  # of captions
      log_every=100,
      checkpoint_every=1000,
      preview_every=2000,
      preview=64,
      tensorboard=False,
    ),
    upsamplers=(
      dict(
        low=8,
        side=16,
        augmentation=(0, 300),
        models=dict(halve_first=True),
        diffusion=dict(),
        train=dict(steps=6000),
      ),
    ),
    choose=dict(  # what sample.prompts reads
      table=table,
      duplicated=24,
      outliers=20,
      ordinary=32,
      delta=0.05,  # training images that count as one
      neighbours=1000,  # of the outlier score
      features=placeholder(ml_collections.ConfigDict),  # none: pixels
    ),
    sample=dict(
      n=placeholder(int),  # follows from prompts
      batch=512,
      **CHAIN,
      backend="pmap",
      prompts="choose/prompts_chosen.csv",
      per_prompt=64,
      upsamplers=(dict(CHAIN, path=None, level=20),),
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
    prompts=dict(
      minimum=10,  # images that have to be alike
      patch=placeholder(int),  # side; none: a quarter, below 64 the whole
      edge=placeholder(float),  # distance of two alike; none: calibrated
      edge_rate=0.001,  # of pairs across prompts
      flag_rate=0.01,  # of prompts that nothing is wrong with
      unsuspected="choose/ordinary.txt",  # one half calibrates, one is told
      controls=200,  # groups of images of different prompts
      flat=0.02,  # images of less contrast are left out
      limit=4096,  # images of a prompt that are compared
      budget=2_500_000,  # work on a prompt's cliques
      delta=0.05,  # to the nearest training image
      duplicates_delta=0.05,  # training images that count as one
      gallery=48,
    ),
    membership=dict(  # of the base
      attacks=("loss", "clid"),
      t=(100, 200, 300, 400, 500),
      headline_t=placeholder(int),  # none: chosen on images set aside
      choose=0.3,  # of members seen once, and of held-out images
      criterion="auc",  # what is best there; or tpr@0.01
      batch=512,
      bootstrap=1000,
      loss=dict(draws=8, augment=("identity",), over="mean"),
      clid=dict(draws=3, clipped=(0.3, 0.5, 0.7), form="threshold", alpha=None),
      prompts=dict(  # planted captions against ordinary ones
        ordinary=200,
        unseen=200,  # captions that no training image has, if any
        detectors=dict(
          magnitude=dict(
            steps=50, followed=10, draws=4, guidance=7.5, clip=None
          ),
          confidence=dict(draws=64, guidance=7.5),
          edges=dict(draws=8, guidance=7.5, threshold=12.0, side=None),
        ),
      ),
      shadow_attacks=dict(),
      quantile=None,
      gradients=None,
      audits=dict(canaries=None, one_run=None, sets=None),
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
      title="What a text-to-image cascade keeps of captioned scenes",
      gallery=48,  # pairs of images shown
      labels=(),  # files of marks that people made on report/sheets.html
    ),
  )
  if given.debug:
    _shorten(sections)
  return ml_collections.ConfigDict(sections).lock()


def _shorten(sections: dict) -> None:
  """The same path in under a minute."""
  sections["models"].update(multipliers=(1,), blocks=(1,), cross=(8,))
  sections["train"].update(steps=10, warmup=5, log_every=5, checkpoint_every=5)
  sections["train"].update(batch=16, preview_every=10, preview=16)
  sections["upsamplers"][0]["train"]["steps"] = 10
  sections["choose"].update(duplicated=3, outliers=2, ordinary=4)
  sections["choose"]["neighbours"] = 50
  sections["sample"].update(batch=64, per_prompt=12, steps=4)
  sections["sample"]["upsamplers"][0]["steps"] = 4
  sections["prompts"]["controls"] = 20
  members = sections["membership"]
  members.update(t=(100, 400), bootstrap=50, generated=16, gallery=3)
  members["loss"]["draws"] = members["clid"]["draws"] = 1
  members["prompts"].update(ordinary=20, unseen=5)
  members["prompts"]["detectors"]["magnitude"].update(followed=1, draws=1)
  members["prompts"]["detectors"]["confidence"]["draws"] = 2
  members["controls"].update(draws=20, permutations=20, trees=5, folds=2)
