# SPDX-License-Identifier: Apache-2.0
"""The gradient attack (GSA): a classifier of gradient norms.

  features  log of the squared gradient norm of each layer (`gradients`),
            averaged over t
  learnt    on shadow models: of each image under each of them, whether it was
            trained on; scaled by their statistics alone
  score     log-odds of "trained on" under the target

The published code scales the target's features by the target's own mean and
spread, over members and non-members together, which one who attacks a single
image does not have. Pang et al., "White-box Membership Inference Attacks
against Diffusion Models", PoPETs 2025; their trees are XGBoost's.
"""

import numpy as np
from sklearn.ensemble import GradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import Pipeline, make_pipeline
from sklearn.preprocessing import StandardScaler

from diffmem.arrays import AnyArray, Bool, Float
from diffmem.membership import matrices

TINY = 1e-30  # a gradient of zeros has no logarithm


def linear(seed: int) -> Pipeline:
  """Logistic regression on scaled features."""
  del seed
  return make_pipeline(StandardScaler(), LogisticRegression(max_iter=2000))


def boosting(seed: int) -> GradientBoostingClassifier:
  """Small boosted trees, each of half the rows."""
  return GradientBoostingClassifier(
    subsample=0.5, max_features="sqrt", random_state=seed
  )


CLASSIFIERS = {"linear": linear, "boosting": boosting}


def features(
  norms: Float[AnyArray, "... t layers"],
) -> Float[np.ndarray, "... layers"]:
  """Features from the signal `gradients` of one model or of several."""
  norms = np.asarray(norms, np.float64)
  return np.log(norms.mean(axis=-2) + TINY)


def score(
  target: Float[AnyArray, "n layers"],
  shadows: Float[AnyArray, "s n layers"],
  masks: Bool[np.ndarray, "s n"],
  *,
  classifier: str = "linear",
  seed: int = 0,
) -> Float[np.ndarray, " n"]:
  """Scores of images under one model; higher means member.

  Args:
    target: features under the model.
    shadows: the same under each shadow model.
    masks: whether shadow s was trained on image n.
    classifier: one of CLASSIFIERS.
    seed: of the classifier.

  Raises:
    ValueError: shadows with members or non-members only, features that are
      not finite or do not vary, shapes that disagree.
  """
  check_classifier(classifier)
  target, shadows = np.asarray(target), np.asarray(shadows)
  matrices.check(target, shadows, masks, inside=0, outside=0)
  if masks.all() or not masks.any():
    kind = "members" if masks.all() else "non-members"
    raise ValueError(
      f"all images are {kind} of all {len(masks)} shadow models: a classifier "
      "needs both kinds"
    )
  model = CLASSIFIERS[classifier](seed)
  model.fit(shadows.reshape(-1, shadows.shape[-1]), masks.ravel())
  return np.asarray(model.decision_function(target), np.float64)


def check_classifier(name: str) -> None:
  """ValueError with the choices if there is no such classifier."""
  if name not in CLASSIFIERS:
    raise ValueError(
      f"classifier {name!r}: choose one of {', '.join(CLASSIFIERS)}"
    )
