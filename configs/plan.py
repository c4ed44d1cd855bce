# SPDX-License-Identifier: Apache-2.0
"""What two published studies cost, on hardware that is stated.

  diffmem-plan --config=plan.py:study=duplicates --workdir=runs/plan \
    --hardware=h100
  diffmem-plan --config=plan.py:study=prompts --workdir=runs/plan \
    --hardware=h100

Both are of Carlini et al. 2023 (arXiv:2301.13188), section 4.2, on Stable
Diffusion 1.4: near-duplicates among the embeddings of its 160 million training
images, and 500 images of each of 350,000 prompts. Nothing is trained, sampled
or searched. The third study, that of CIFAR-10, is `cifar10_ddpm.py` itself.
See docs/scaling.md.

Arguments: `study=NAME`, one of duplicates (default) and prompts; `debug` (the
same with 1,000 vectors or prompts); `seed=N` (nothing is random: not read).
"""

import ml_collections

from diffmem import args


def duplicates() -> dict:
  """Embeddings, each pair of which is compared."""
  return dict(
    study="duplicates",
    method="exact",  # or inverted
    vectors=160_000_000,
    dims=512,
    dtype="bfloat16",  # 2 bytes a value, as float16
    block=1_000_000,  # vectors that one reading of all others serves
    # An assumption: about sqrt(vectors) lists, one in a thousand probed.
    lists=16_384,
    probes=16,
    trained_on=1_000_000,
    iterations=20,
  )


def prompts() -> dict:
  """500 images of each prompt, and all pairs of them."""
  return dict(
    study="prompts",
    prompts=350_000,
    per_prompt=500,
    steps=50,  # an assumption: the paper's is not known here
    guided=True,
    # Of the network and the decoder of Stable Diffusion 1, in diffusers'
    # classes: `python benchmarks/plan.py --count` prints them.
    call=803_273_441_280,
    decode=2_514_518_933_504,
    params=909_011_143,
    dtype="bfloat16",
    batch=32,
    side=512,
    channels=3,
  )


STUDIES = {"duplicates": duplicates, "prompts": prompts}
FEW = {"duplicates": "vectors", "prompts": "prompts"}  # 1,000 in `debug`


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The study; `arg` is what follows the colon of --config."""
  given = args.parse(arg, study="duplicates", debug=False, seed=0)
  if given.study not in STUDIES:
    raise ValueError(
      f"config argument study: {args.unknown('study', given.study, STUDIES)}"
    )
  section = STUDIES[given.study]()
  if given.debug:
    section[FEW[given.study]] = 1000
  return ml_collections.ConfigDict(dict(seed=given.seed, plan=section)).lock()
