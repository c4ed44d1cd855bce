# SPDX-License-Identifier: Apache-2.0
"""Work of published studies whose models or data nobody here holds.

Each is a function of plain numbers, a config section `plan`, and makes `Work`
that stated hardware prices:

  duplicates  near-duplicates among N vectors of d values, 2 d operations for
              each of
                exact     N (N - 1) / 2 pairs
                inverted  N (L + p N / L) pairs by a file of L lists, p probed,
                          after k-means on some of the vectors
  prompts     P prompts x S images of a latent diffusion model; of each prompt
              all S (S - 1) / 2 pairs of images, h w c values each

(Carlini et al. 2023, arXiv:2301.13188, section 4.2.)
"""

from collections.abc import Callable

from diffmem import args
from diffmem.report.plan import Work

BYTES = {"float32": 4, "bfloat16": 2, "int8": 1}
METHODS = ("exact", "inverted")


def duplicates(
  *,
  method: str,
  vectors: int,
  dims: int,
  dtype: str,
  block: int,
  lists: int,
  probes: int,
  trained_on: int,
  iterations: int,
) -> list[Work]:
  """Near-duplicates among vectors.

  Args:
    method: "exact", all pairs, or "inverted", an inverted file.
    vectors: how many; dims: values of each; dtype: of values and products.
    block: vectors that one reading of all others serves.
    lists, probes: of the inverted file.
    trained_on, iterations: of the k-means that makes the lists.
  """
  if method not in METHODS:
    raise ValueError(args.unknown("plan.method", method, METHODS))
  width = dims * BYTES[dtype]
  stored = float(vectors * width)
  pairs = vectors * (vectors - 1) / 2
  readings = -(-vectors // block) / 2  # each pair of blocks meets once
  near = vectors * (lists + probes * vectors / lists)
  fitted = iterations * trained_on * lists
  if method == "exact":
    return [
      Work(
        "all pairs",
        f"{pairs:.3g} pairs of {dims} values",
        flops=2.0 * dims * pairs,
        kind=dtype,
        # Products in float32, written once and read once by the threshold.
        moved=8.0 * pairs + readings * stored,
        memory=(float(block * width), stored),
        disk=stored,
      )
    ]
  return [
    Work(
      "lists",
      f"{iterations} passes of k-means over {trained_on:,} vectors",
      flops=2.0 * dims * fitted,
      kind=dtype,
      moved=8.0 * fitted,
      memory=(float(lists * width), float(trained_on * width)),
    ),
    Work(
      "search",
      f"{near:.3g} pairs, {probes} of {lists:,} lists each",
      flops=2.0 * dims * near,
      kind=dtype,
      moved=8.0 * near,
      memory=(float(lists * width), stored),
      disk=stored,
    ),
  ]


def prompts(
  *,
  prompts: int,
  per_prompt: int,
  steps: int,
  guided: bool,
  call: int,
  decode: int,
  params: int,
  dtype: str,
  batch: int,
  side: int,
  channels: int,
) -> list[Work]:
  """The attack by prompt on a text-to-image model of latents.

  Args:
    prompts: how many; per_prompt: images of each.
    steps: network calls of an image; guided: two for each step.
    call, decode: operations of a call of the network, of decoding an image.
    params: weights of both; dtype: of their products; batch: images at once.
    side, channels: of the images.
  """
  images = prompts * per_prompt
  calls = images * steps * (2 if guided else 1)
  pairs = prompts * per_prompt * (per_prompt - 1) / 2
  values = side * side * channels
  weights = float(params * BYTES[dtype])
  # The weights are read for every batch; activations are not counted.
  return [
    Work(
      "sample",
      f"{images:,} images x {calls // images} network calls",
      flops=float(call * calls),
      kind=dtype,
      moved=weights * calls / batch,
      memory=(weights, 0.0),
      disk=float(images * values),
    ),
    Work(
      "decode",
      f"{images:,} images of {side} x {side}",
      flops=float(decode * images),
      kind=dtype,
      moved=2.0 * images * values,
      memory=(weights, 0.0),
    ),
    Work(
      "compare",
      f"{pairs:.3g} pairs within prompts, {values:,} values each",
      flops=2.0 * values * pairs,
      kind="int8",
      moved=float(images * values) + 8.0 * 16 * pairs,  # 16 patches a pair
      memory=(float(per_prompt * values), 0.0),
    ),
  ]


STUDIES: dict[str, Callable[..., list[Work]]] = {
  "duplicates": duplicates,
  "prompts": prompts,
}


def works(plan: dict) -> list[Work]:
  """Of a config section `plan`; ValueError for a study that is not."""
  options = dict(plan)
  name = options.pop("study", None)
  if name not in STUDIES:
    raise ValueError(args.unknown("plan.study", str(name), STUDIES))
  return STUDIES[name](**options)
