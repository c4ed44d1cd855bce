# SPDX-License-Identifier: Apache-2.0
"""Quantile regression: each image has its own threshold, without shadows.

From non-members alone it is learnt how high an attack's score s gets for
images like x: q(x), the (1 - fpr)-quantile of s given features of x. Then

  score(x) = s(x) - q(x),   above 0: member, for about fpr of non-members

whatever x looks like, where one threshold for all would flag the easy ones.
q minimizes the pinball loss max(u (s - q), (u - 1) (s - q)), u = 1 - fpr. It
is learnt on several bootstrap resamples; the score is the median over them,
so that its sign is their majority vote.

Tang et al., "Membership Inference Attacks on Diffusion Models via Quantile
Regression", 2023, with regressors of scikit-learn in place of a network.
"""

import numpy as np
from sklearn.decomposition import PCA
from sklearn.ensemble import GradientBoostingRegressor
from sklearn.linear_model import QuantileRegressor
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from diffmem.arrays import AnyArray, Float, UInt8
from diffmem.stats.rates import check_share


def linear(level: float, seed: int) -> Pipeline:
  """A q that is linear in the features; slow beyond some 10,000 images."""
  del seed
  return make_pipeline(
    StandardScaler(), QuantileRegressor(quantile=level, alpha=0.0)
  )


def boosting(level: float, seed: int) -> GradientBoostingRegressor:
  """A q that is a sum of small trees; learns from 1,000 images or more."""
  return GradientBoostingRegressor(
    loss="quantile",
    alpha=level,
    n_estimators=60,
    min_samples_leaf=40,
    subsample=0.5,
    random_state=seed,
  )


LEARNT, BLOCK = 10_000, 4096  # images behind the components; and at a time
REGRESSORS = {"linear": linear, "boosting": boosting}


def score(
  scores: Float[AnyArray, " n"],
  features: Float[AnyArray, "n d"],
  calibration_scores: Float[AnyArray, " k"],
  calibration_features: Float[AnyArray, "k d"],
  *,
  fpr: float = 0.05,
  regressor: str = "linear",
  bags: int = 7,
  seed: int = 0,
) -> Float[np.ndarray, " n"]:
  """Scores of images above their own thresholds; higher means member.

  Args:
    scores: of an attack, higher means member.
    features: what the thresholds depend on, such as `pixels`.
    calibration_scores: the same attack on non-members, none of the images.
    calibration_features: their features.
    fpr: at which false positive rate the thresholds are put.
    regressor: one of REGRESSORS.
    bags: bootstrap resamples, odd; 1 learns from all as they are.
    seed: of the resamples.

  Raises:
    ValueError: non-members too few for this fpr, values that are not finite
      or do not vary, options that cannot be.
  """
  given = [scores, features, calibration_scores, calibration_features]
  scores, features, known, x = (np.asarray(a, np.float64) for a in given)
  _check(scores, features, known, x)
  check_options(len(known), fpr=fpr, regressor=regressor, bags=bags)
  rng = np.random.default_rng(seed)
  margins = np.empty((bags, len(scores)))
  for b in range(bags):
    rows = rng.integers(len(known), size=len(known))
    rows = rows if bags > 1 else np.arange(len(known))
    model = REGRESSORS[regressor](1 - fpr, seed + b)
    margins[b] = scores - model.fit(x[rows], known[rows]).predict(features)
  return np.median(margins, axis=0)


def check_options(known: int, *, fpr: float, regressor: str, bags: int) -> None:
  """ValueError unless `known` calibration images can be learnt from so."""
  check_share("fpr", fpr)
  if regressor not in REGRESSORS:
    raise ValueError(
      f"regressor {regressor!r}: choose one of {', '.join(REGRESSORS)}"
    )
  if bags < 1 or not bags % 2:
    raise ValueError(f"bags = {bags}: expected an odd number, they vote")
  if known * min(fpr, 1 - fpr) < 1:
    raise ValueError(
      f"{known} calibration images cannot tell a quantile at fpr = {fpr}: "
      f"give {int(np.ceil(1 / min(fpr, 1 - fpr)))} or more, or raise fpr"
    )


def pixels(
  images: UInt8[AnyArray, "n h w c"],
  calibration_images: UInt8[AnyArray, "k h w c"],
  *,
  components: int = 16,
) -> tuple[Float[np.ndarray, "n d"], Float[np.ndarray, "k d"]]:
  """Features from pixels: principal components, mean and contrast.

  The components are those of the calibration images. Returns the features of
  images and of calibration images, d <= components + 2.
  """
  flat = _flat(calibration_images[:LEARNT])
  most = min(components, *flat.shape)
  pca = PCA(most, svd_solver="full").fit(flat)

  def of(images) -> Float[np.ndarray, "n d"]:
    parts = []
    for start in range(0, len(images), BLOCK):
      a = _flat(images[start : start + BLOCK])
      parts.append(
        np.column_stack([pca.transform(a), a.mean(axis=1), a.std(axis=1)])
      )
    return np.concatenate(parts).astype(np.float64)

  return of(images), of(calibration_images)


def _flat(images) -> Float[np.ndarray, "n d"]:
  return np.asarray(images, np.float32).reshape(len(images), -1) / 255


def _check(scores, features, known, x) -> None:
  for name, values, rows in (
    ("scores", scores, features),
    ("calibration scores", known, x),
  ):
    if len(values) != len(rows) or not len(values):
      raise ValueError(
        f"{len(values)} {name} for {len(rows)} rows of features: expected one "
        "for each image, and one image or more"
      )
    for what, array in ((name, values), (f"features of {name}", rows)):
      bad = int(np.count_nonzero(~np.isfinite(array)))
      if bad:
        raise ValueError(f"{bad} of {array.size} {what} are NaN or infinite")
  if known.min() == known.max():
    raise ValueError(
      f"all {known.size} calibration scores are {known[0]:g}: they tell nothing"
    )
