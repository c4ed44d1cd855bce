# SPDX-License-Identifier: Apache-2.0
"""An audit of images that somebody else generated.

  diffmem-audit --config=configs/folder.py --config.sample.path=DIR \
    --config.data.path=DIR --workdir=runs/mine
  ... --config.data.held_out=DIR        images that the model never saw

Nothing is trained and no model is needed. `sample.path` holds the generations:
a folder, a zip or tar file, a zarr array, an npz file or tfds:NAME. `data.path`
holds the training images, `data.held_out` others of the same kind for the
control; without held-out images the training set is its own control, without
training images only the prompts are examined. Where the prompt of each
generation is known (sub-folders, or `sample.prompts`), generations of one
prompt are searched for images that come again and again (Carlini et al. 2023,
arXiv:2301.13188, section 4.2).

Arguments: `debug` (small galleries; nothing else takes long), `seed=N`,
`quality` (also measure how good the generations are).
"""

import ml_collections
from ml_collections.config_dict import placeholder

from diffmem import args


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
    loss=None,  # there is no model
  )


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is what follows the colon of --config."""
  given = args.parse(arg, debug=False, seed=0, quality=False)
  sections = dict(
    seed=given.seed,
    data=dict(
      path=placeholder(str),  # the training images; none: not known
      held_out=placeholder(str),  # images that the model never saw
      data_dir=placeholder(str),  # where tfds keeps its datasets
      crop="none",
      resize=placeholder(int),
      filter="lanczos",
      calibration=0.5,  # share of the held-out images that sets thresholds
    ),
    sample=dict(
      path=placeholder(str),  # the generations
      prompts=placeholder(str),  # CSV or JSON lines: file, prompt
      crop="none",
      resize=placeholder(int),
      filter="lanczos",
      max_pixels=2**26,
      batch=512,
    ),
    distances=dict(k=51, block=2048, mirror=True),
    features=dict(  # a second distance; needs held-out images
      name="descriptor",  # or classifier, clip, dinov2, sscd, file; none: no
      path=placeholder(str),  # of weights, or of embeddings
      mirror=True,
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
      flag_rate=0.001,  # of prompts that nothing is wrong with
      unsuspected=placeholder(str),  # file of prompts known to be harmless
      controls=200,  # groups of images of different prompts
      flat=0.02,  # images of less contrast are left out
      limit=4096,  # images of a prompt that are compared
      budget=2_500_000,  # work on a prompt's cliques
      delta=0.15,  # to the nearest training image
      duplicates_delta=0.1,  # training images that count as one
      gallery=48,
    ),
    report=dict(
      title="Are these images copies of training images?",
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
  for section in (config.extraction, config.prompts, config.report):
    section.gallery = 8
