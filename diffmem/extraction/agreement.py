# SPDX-License-Identifier: Apache-2.0
"""Does a model copy its training images, or has it learnt their law?

Two measures, neither of which needs a threshold of distance.

**Share of copies.** A generation is a copy if it is three times nearer to one
training image than to any other, d1 / d2 < 1/3 (Yoon et al. 2023; Gu et al.
2023, arXiv:2310.02664). Training images must be distinct: of two equal ones
d1 / d2 is 1.

**Agreement.** Two models trained on disjoint halves, from the same noise
(Kadkhodaie et al. 2024, arXiv:2310.02557): models that copy show each its own
nearest training image; models that have learnt the law show the same image,
though they share no training image. Compared by the cosine of images less the
mean training image.
"""

import numpy as np

from diffmem import distances
from diffmem.arrays import Float, UInt8

Images = UInt8[np.ndarray, "_ h w c"]


def ratios(
  generated: UInt8[np.ndarray, "n h w c"],
  training: UInt8[np.ndarray, "m h w c"],
) -> Float[np.ndarray, " n"]:
  """d1 / d2 of each generation, in [0, 1]; 1 where both are 0."""
  if len(training) < 2:
    raise ValueError(
      f"{len(training)} training images: d1 / d2 needs two at least"
    )
  squared = distances.nearest(generated, training, k=2).squared.astype(float)
  near, far = np.sqrt(squared).T
  return np.divide(near, far, out=np.ones_like(far), where=far > 0)


def agreement(
  first: Images,
  second: Images,
  training: tuple[Images, Images],
) -> dict[str, Float[np.ndarray, " n"]]:
  """Cosines of each pair of generations, of one noise each.

  Args:
    first, second: of the two models, row i from the same noise.
    training: what each was trained on.

  Returns:
    same_noise: of the two generations; shuffled: of generations of different
    noise, the control; own: of a generation and its nearest image in its own
    model's training set; other: in the other model's, the control; the means
    of both models.
  """
  if first.shape != second.shape:
    raise ValueError(
      f"generations of shape {first.shape} and {second.shape}: give as many of "
      "both, from the same noise"
    )
  mean = np.concatenate([_flat(x) for x in training]).mean(0)
  own, other = (
    np.mean(
      [
        _cosine(x, half[distances.nearest(x, half, k=1).ids[:, 0]], mean)
        for x, half in zip((first, second), order, strict=True)
      ],
      axis=0,
    )
    for order in (training, training[::-1])
  )
  return {
    "same_noise": _cosine(first, second, mean),
    "shuffled": _cosine(first, np.roll(second, 1, axis=0), mean),
    "own": own,
    "other": other,
  }


def _flat(images: Images) -> Float[np.ndarray, "_ d"]:
  return images.reshape(len(images), -1).astype(np.float64)


def _cosine(
  a: Images, b: Images, mean: Float[np.ndarray, " d"]
) -> Float[np.ndarray, " n"]:
  x, y = _flat(a) - mean[None], _flat(b) - mean[None]
  lengths = np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)
  return (x * y).sum(1) / np.maximum(lengths, 1e-12)
