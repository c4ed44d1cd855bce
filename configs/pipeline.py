# SPDX-License-Identifier: Apache-2.0
"""An audit of somebody else's text-to-image model, by its generations.

  diffmem-audit --config=configs/pipeline.py --config.sample.pipeline=DIR \
    --config.sample.prompts=prompts.txt --workdir=runs/mine
  ... --config.data.path=DIR            the training images, where known
  ... --config.data.held_out=DIR        images that the model never saw

Needs `pip install "diffmem[torch]"`. `sample.pipeline` is a folder that
diffusers' save_pretrained wrote, or a name on the hub; weights are read from
safetensors alone and no code of theirs is run. `sample.per_prompt` images are
made of each prompt (500 in Carlini et al. 2023, arXiv:2301.13188, section 4.2)
and searched for images that come again and again. Without `sample.prompts` the
pipeline is an unconditional one. Where `data.path` has captions, prompts can be
chosen among them, most duplicated first, as the study did:

  ... --config.choose.duplicated=1000 \
    --config.sample.prompts=choose/prompts_chosen.csv

Arguments: `debug` (two steps and four images a prompt), `seed=N`.
"""

import ml_collections
from ml_collections.config_dict import placeholder

from diffmem import args


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The experiment; `arg` is what follows the colon of --config."""
  given = args.parse(arg, debug=False, seed=0)
  sections = dict(
    seed=given.seed,
    data=dict(
      path=placeholder(str),  # the training images; none: not known
      held_out=placeholder(str),  # images that the model never saw
      data_dir=placeholder(str),  # where tfds keeps its datasets
      crop="none",
      resize=placeholder(int),  # to the size of the generations
      filter="lanczos",
      calibration=0.5,  # share of the held-out images that sets thresholds
    ),
    choose=dict(  # prompts among captions of data.path; see the module
      table=placeholder(str),  # prompts of another run; none: chosen here
      duplicated=0,  # captions of the most duplicated images
      outliers=0,  # of the rest, of images far from all others
      ordinary=0,  # of the rest, at random
      delta=0.1,  # training images that count as one
      neighbours=1000,  # of the outlier score
      features=placeholder(ml_collections.ConfigDict),  # none: pixels
    ),
    sample=dict(
      pipeline=placeholder(str),  # a folder, or a name on the hub
      prompts=placeholder(str),  # .txt, .jsonl, .csv; none: unconditional
      per_prompt=64,
      batch=4,
      steps=50,
      guidance=7.5,  # where there are prompts
      size=placeholder(int),  # none: the pipeline's own
      dtype="float32",  # or float16, bfloat16
      device=placeholder(str),  # none: a GPU where there is one
      options=dict(),  # further arguments of the pipeline's call
      mitigation=placeholder(dict),  # see docs/mitigation.md; none: none
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
      title="Does this pipeline repeat training images?",
      gallery=48,  # pairs of images shown
      labels=(),  # files of marks that people made on report/sheets.html
    ),
  )
  config = ml_collections.ConfigDict(sections).lock()
  if given.debug:
    _shorten(config)
  return config


def _shorten(config) -> None:
  config.sample.update(per_prompt=4, steps=2)
  config.prompts.update(minimum=3, gallery=8)
  config.extraction.update(gallery=8)
  config.report.update(gallery=8)
