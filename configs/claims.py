# SPDX-License-Identifier: Apache-2.0
"""What the papers claim, tried on models that a laptop trains.

  diffmem-claims --config=configs/claims.py --workdir=runs/claims
  diffmem-claims --config=claims.py:stored=published --workdir=runs/rows
  ... --config=claims.py:fashion=fashion_mnist.npz  (or tfds:fashion_mnist)
  ... --config=claims.py:cifar=cifar10.npz  (or tfds:cifar10)
  diffmem-claims --config=configs/claims.py:debug --workdir=runs/debug

Each arm below is an audit like any other, once for each seed, in
<workdir>/runs; claims that need the same models share them. What is measured
of each is kept in <workdir>/claims, from which the table is made. Two audits
run at a time; what has finished is kept, so that the same command goes on.

Arguments: `debug` (the same path, one seed, too short to learn anything),
`seeds=N` (of every arm), `stored=FILE` (rows from an observed.json of before,
or with `published` from those of the documentation; nothing is trained),
`fashion=SOURCE` (Fashion-MNIST, for the rows on clothes), `cifar=SOURCE`
(CIFAR-10, for those that need an accelerator), `jobs=N` (audits at a time).
"""

import ml_collections
from ml_collections.config_dict import placeholder

from diffmem import args

# Of each arm: the audit, with the seed left open, and its overrides.
ARMS = {
  "ddpm": ("defence_small.py:seed={seed},quality", ()),
  "dedup": ("defence_small.py:seed={seed},quality,defence=dedup", ()),
  "short": ("defence_small.py:seed={seed},quality,steps=500", ()),
  "equal": ("defence_small.py:seed={seed},quality,steps=1500", ()),
  "private": (
    "defence_small.py:seed={seed},quality,steps=500,defence=dp_high",
    (),
  ),
  "classes": (
    "defence_small.py:seed={seed},quality",
    ("models.num_classes=10",),
  ),
  "shadows": (
    "digits_membership.py:seed={seed},inpaint",
    (
      "membership.t=(1, 3, 10, 30, 50, 100, 200, 400)",
      "membership.attacks=('loss',)",
      "membership.by_step=False",
      "inpaint.targets=40",
    ),
  ),
  "canaries": ("digits_audits.py:seed={seed}", ()),
  "gan": (  # beside "equal", the diffusion model of its quality
    "gan_small.py:seed={seed},quality,family=diffbiggan,steps=1200",
    ("quality.features.name=pixels",),
  ),
  "stylegan": (  # beside "ddpm", the diffusion model of its quality
    "gan_small.py:seed={seed},quality,family=stylegan_ada,steps=2500",
    ("quality.features.name=pixels",),
  ),
  "prompts": (  # the base alone, at 8 x 8
    "imagen_small.py:seed={seed}",
    (
      "data.resize=8",
      "train.steps=4000",
      "upsamplers=()",
      "sample.upsamplers=()",
      "sample.steps=25",
    ),
  ),
}
# Whose models, or pairs of models, are the seeds.
TOGETHER = {
  "measures": (
    "measures_small.py",
    ("measures.repeats={seeds}", "measures.sizes=(25, 100, 400)"),
  ),
  "side": (
    "side_small.py:shadows={twice}",
    ("side.methods=('scratch', 'plain')", "side.scales=(4.0, 8.0, 16.0)"),
  ),
}
# On images that no package carries; CIFAR-10 needs an accelerator.
CLOTHES = {
  "fashion": (
    "defence_small.py:seed={seed},quality",
    ("data.resize=8", "models.width=256"),
  ),
  "fashion_stylegan": (
    "gan_small.py:seed={seed},quality,family=stylegan_ada,steps=2500",
    ("data.resize=8", "quality.features.name=pixels"),
  ),
}
PHOTOGRAPHS = {
  "cifar": ("cifar10_ddpm.py:seed={seed},subset=1000,quality", ()),
  "cifar_more": ("cifar10_ddpm.py:seed={seed},subset=8000,quality", ()),
}
KINDS = ("npz:", "tfds:", "folder:", "tar:")


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The study; `arg` is what follows the colon of --config."""
  given = args.parse(
    arg, debug=False, seeds=5, stored=None, fashion=None, cifar=None, jobs=2
  )
  seeds = 1 if given.debug else given.seeds
  if seeds < 1:
    raise ValueError(f"config argument seeds={seeds}: expected 1 or more")
  arms = {
    name: _arm(config, flags, seeds) for name, (config, flags) in ARMS.items()
  }
  for source, more in ((given.fashion, CLOTHES), (given.cifar, PHOTOGRAPHS)):
    if source is not None:
      kind = "" if source.startswith(KINDS) else "npz:"
      flag = f"data.source={kind}{source}"
      arms |= {
        name: _arm(config, (flag, *flags), seeds)
        for name, (config, flags) in more.items()
      }
  for name, (config, flags) in TOGETHER.items():
    sizes = dict(seeds=seeds, twice=2 * seeds)
    arms[name] = _arm(
      config.format(**sizes), tuple(f.format(**sizes) for f in flags), 1
    )
  if given.debug:
    arms = {name: _shortened(arm) for name, arm in arms.items()}
  return ml_collections.ConfigDict(
    dict(
      claims=dict(
        arms=arms,
        jobs=given.jobs,
        stored=placeholder(str) if given.stored is None else given.stored,
      ),
    )
  ).lock()


def _arm(config: str, flags: tuple, seeds: int) -> dict:
  return dict(config=config, flags=flags, seeds=seeds)


def _shortened(arm: dict) -> dict:
  config, _, rest = arm["config"].partition(":")
  kept = [part for part in rest.split(",") if not part.startswith("steps=")]
  flags = tuple(
    f
    for f in arm["flags"]
    if f.split("=")[0]
    not in ("train.steps", "sample.steps", "membership.t", "measures.sizes")
  )
  return dict(
    arm, config=f"{config}:{','.join(['debug', *filter(None, kept)])}",
    flags=flags,
  )  # fmt: skip
