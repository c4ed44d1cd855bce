# SPDX-License-Identifier: Apache-2.0
"""Can a model be made to fill in the hidden half of a training image?

  diffmem-audit --config=configs/digits_reconstruction.py --workdir=runs/halves
  ... --config=configs/digits_reconstruction.py:debug --workdir=runs/debug
  ... --config.inpaint.mask=mask.png                  (white is hidden)

Two pairs of shadow models, each trained on a half of 1,198 handwritten digits
that its partner never sees. The left half of 100 digits is hidden; the model
that saw a digit and its partner, which did not, fill it in 128 times each,
and a shadow of the other pair that did not see it either ranks what they made
(Carlini et al. 2023, arXiv:2301.13188, section 5.3; filling in: Lugmayr et al.
2022, arXiv:2201.09865). Nothing is planted: each digit was seen once an epoch.

Arguments: `debug` (the same path in under a minute, too short to learn
anything), `seed=N`, `steps=N` (of training: the longer, the more is kept).
"""

import ml_collections
from ml_collections.config_dict import placeholder

from diffmem import args


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is what follows the colon of --config."""
  given = args.parse(arg, debug=False, seed=0, steps=8000)
  sections = _sections(given)
  if given.debug:
    sections["models"].update(width=32, blocks=1)
    sections["train"].update(
      steps=20, warmup=5, log_every=10, checkpoint_every=10
    )
    sections["train"].update(batch=32, preview_every=20)
    sections["inpaint"].update(
      targets=6, candidates=8, keep=2, batch=8, steps=5
    )
    sections["inpaint"].update(resample=2, draws=2, bootstrap=50, gallery=4)
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
      split=dict(
        name="random",
        members=0,  # of a main model: there is none
        held_out=1198,  # the pool: each shadow trains on a half of it
        calibration=0,
        planted=(),
        shadows=4,
        shadow=placeholder(int),
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
      checkpoint_every=2000,
      preview_every=given.steps,
      preview=0,
      tensorboard=False,
    ),
    inpaint=dict(
      mask="left",  # the hidden half; or right, top, bottom, or a picture
      targets=100,
      candidates=128,
      keep=10,  # ranked highest, whose mean distance counts
      batch=128,
      stepper="ddpm_fixed_large",
      steps=50,
      eta=1.0,  # of ddim
      clip=True,
      jump=1,  # levels back, to let both halves agree
      resample=5,  # times each level is passed
      t=100,  # of the loss that ranks
      draws=16,
      bootstrap=1000,
      gallery=16,
    ),
    report=dict(
      title="Hidden halves of handwritten digits, filled in",
      gallery=48,
      labels=(),  # files of marks that people made on report/sheets.html
    ),
  )
