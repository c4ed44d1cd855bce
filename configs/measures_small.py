# SPDX-License-Identifier: Apache-2.0
"""When does a diffusion model copy? Labels, training set sizes, training time.

  diffmem-audit --config=configs/measures_small.py --workdir=runs/measures
  ... --config=configs/measures_small.py:debug --workdir=runs/debug

Small networks on handwritten digits, alike but for one thing, with three
seeds: without labels, with the digits' own, with random ones and with one for
each image (Gu et al. 2023, arXiv:2310.02664; the memorization divergence of
Chen et al. 2025, arXiv:2410.02467); and pairs of models on disjoint halves, of
25 to 400 images each, looked at as they train (Kadkhodaie et al. 2024,
arXiv:2310.02557; Bonnaire et al. 2025).

Arguments: `debug` (the same path in under a minute, too short to learn
anything), `seed=N`.
"""

import ml_collections
from ml_collections.config_dict import placeholder

from diffmem import args


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is what follows the colon of --config."""
  given = args.parse(arg, debug=False, seed=0)
  sections = _sections(given)
  if given.debug:
    sections["models"].update(width=32, blocks=1)
    sections["train"].update(steps=20, warmup=5, log_every=10, batch=32)
    sections["measures"].update(repeats=2, generated=16, batch=16, points=2)
    sections["measures"].update(sizes=(8, 16), bootstrap=50)
    sections["measures"]["sampler"]["steps"] = 5
    sections["measures"]["labels"].update(members=16, held_out=16, draws=1)
    sections["measures"]["labels"].update(levels=4, probes=1)
  return ml_collections.ConfigDict(sections).lock()


def _sections(given) -> dict:
  return dict(
    seed=given.seed,
    data=dict(
      source="digits",
      data_dir=placeholder(str),
      crop="none",
      resize=placeholder(int),
      filter="lanczos",
      split=dict(  # its sizes are those of measures
        name="random",
        members=0,
        held_out=0,
        calibration=0,
        planted=(),
        shadows=0,
        shadow=placeholder(int),
        path=placeholder(str),
      ),
    ),
    models=dict(
      name="mlp",
      num_classes=placeholder(int),  # set by the labels that are compared
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
      steps=2000,
      lr=2e-3,
      warmup=200,
      decay="cosine",
      clip=1.0,
      ema=0.999,
      flip=False,  # a mirrored digit is no digit
      label_dropout=0.0,
      log_every=500,
      checkpoint_every=2000,
      preview_every=2000,
      preview=0,
      tensorboard=False,
    ),
    measures=dict(
      repeats=3,  # seeds
      ratio=1 / 3,  # d1 / d2 of a copy
      generated=256,  # of each model, each time
      batch=512,
      points=6,  # times at which training is looked at
      sizes=(25, 50, 100, 200, 400),  # of each half
      sampler=dict(
        stepper="ddim", steps=50, eta=0.0, clip=True, spacing="uniform"
      ),
      labels=dict(
        kinds=("informative", "random", "unique"),
        members=200,
        held_out=200,
        blur=0.05,  # e, of pixels in [-1, 1]
        draws=1,  # of it for each image
        levels=60,  # of the probability-flow equation
        probes=2,  # of its divergence; None: exact
        variance="fixed_large",  # of the bound
      ),
      bootstrap=1000,
    ),
    report=dict(
      title="When a small diffusion model copies its training images",
      gallery=48,
      labels=(),  # files of marks that people made on report/sheets.html
    ),
  )
