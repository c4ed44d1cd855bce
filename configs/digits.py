# SPDX-License-Identifier: Apache-2.0
"""A DDPM on scikit-learn's handwritten digits: the whole audit on a laptop.

  diffmem-audit --config=configs/digits.py --workdir=runs/digits
  diffmem-audit --config=configs/digits.py:debug --workdir=/tmp/digits
  diffmem-audit --config=configs/digits.py:seed=1 --workdir=runs/digits_1

1,797 real images of 8 x 8 pixels, nothing to download. A third are members,
a third are held out, a third calibrate the rule of extraction. Some members
are planted: 4 are seen 50 times, 6 twenty times, and so on, so that it is
known what there is to find. A small U-Net is trained on them (Ho et al. 2020),
4,096 images are sampled by DDIM (Song et al. 2021), searched for training
images (Carlini et al. 2023), and the loss attack tells members apart.

Arguments: `debug` (every stage in seconds: too short to learn anything),
`seed=N`.
"""

import ml_collections
from ml_collections.config_dict import placeholder

from diffmem import args


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is what follows the colon of --config."""
  given = args.parse(arg, debug=False, seed=0)
  config = ml_collections.ConfigDict()
  config.seed = given.seed

  config.data = dict(
    source="digits",  # or npz:PATH, folder:PATH, tfds:NAME
    data_dir=placeholder(str),  # where tfds keeps its data
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
      path=placeholder(str),
    ),
  )
  config.models = dict(
    name="unet",
    width=16,
    multipliers=(1, 1),
    blocks=1,
    attention=(),
    dropout=0.0,
  )
  config.diffusion = dict(
    schedule=dict(name="linear", steps=1000),
    prediction="eps",
    loss="mse",
  )
  config.train = dict(
    batch=64,
    steps=4000,
    lr=2e-3,
    warmup=200,
    decay="cosine",
    clip=1.0,
    ema=0.999,
    flip=False,  # a mirrored digit is no digit
    log_every=100,
    checkpoint_every=500,
    preview_every=1000,
    preview=64,
  )
  config.sample = dict(
    n=4096,
    batch=512,
    stepper="ddim",
    eta=0.0,
    steps=50,
    guidance=1.0,
    clip=True,
  )
  config.distances = dict(k=51, block=2048)
  config.extraction = dict(
    alpha=0.5,
    neighbours=50,
    centring="generation",
    false_match_rate=0.001,
    gallery=48,
  )
  config.membership = dict(
    attacks=("loss",),
    t=(10, 30, 100, 300),
    headline_t=100,
    draws=16,
    batch=512,
    bootstrap=1000,
  )
  config.report = dict(title="What a DDPM keeps of handwritten digits")

  config.lock()
  if given.debug:
    config.train.update(
      steps=20,
      warmup=5,
      log_every=5,
      checkpoint_every=10,
      preview_every=20,
      preview=16,
    )
    config.sample.update(n=128, batch=64, steps=5)
    config.membership.update(t=(10, 100), draws=2, batch=256, bootstrap=100)
  return config
