# SPDX-License-Identifier: Apache-2.0
"""A comparison of finished runs.

  diffmem-compare --config=compare.py --workdir=runs/compared \
    --config.compare.workdirs="('runs/ddpm', 'runs/gan')"

Reads what the stages left in each workdir; nothing is computed again. The
first workdir is the one that the others are compared with.

Arguments: `debug` (fewer resamples), `seed=N`.
"""

import ml_collections

from diffmem import args


def get_config(arg: str = "") -> ml_collections.ConfigDict:
  """The comparison; `arg` is what follows the colon of --config."""
  given = args.parse(arg, debug=False, seed=0)
  sections = dict(
    seed=given.seed,
    compare=dict(
      workdirs=(),  # two or more
      names=(),  # of them on the page; none: names of the folders
      title="What models memorize, side by side",
      resamples=1000,  # of images, for changes of an AUC
    ),
  )
  if given.debug:
    sections["compare"]["resamples"] = 50
  return ml_collections.ConfigDict(sections).lock()
