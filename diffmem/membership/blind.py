# SPDX-License-Identifier: Apache-2.0
"""A classifier that never sees the model: does the split itself leak?

If members and held-out images can be told apart by their pixels alone, an
attack may be reading the split and not the model, as on benchmarks whose
non-members come from another source. Two classifiers, logistic regression
and a random forest on principal components, are fitted on some images and
score the others (stratified folds, so that every image is scored by
classifiers that were not fitted on it). On a fair split their AUC is 1/2.
"""

from typing import Any

import numpy as np
import sklearn.decomposition
import sklearn.ensemble
import sklearn.linear_model
import sklearn.model_selection
import sklearn.pipeline
import sklearn.preprocessing

from diffmem import stats
from diffmem.arrays import Bool, Float, UInt8


def scores(
  images: UInt8[np.ndarray, "n h w c"],
  member: Bool[np.ndarray, " n"],
  *,
  components: int,
  trees: int,
  folds: int,
  seed: int,
) -> dict[str, Float[np.ndarray, " n"]]:
  """Out-of-fold scores of each classifier; higher means member.

  Args:
    images: of members and non-members.
    member: which are members.
    components: principal components of the pixels, found within each fold.
    trees: of the forest.
    folds: at least 2; each needs images of both classes.
    seed: of folds and classifiers.

  Raises:
    ValueError: fewer images of a class than folds.
  """
  few = min(int(member.sum()), int((~member).sum()))
  if few < folds or folds < 2:
    raise ValueError(
      f"folds = {folds} for {few} images of the smaller class: expected at "
      "least 2, and no more than images of a class"
    )
  flat = images.reshape(len(images), -1).astype(np.float32) / 255
  fitted = len(images) - -(-len(images) // folds)  # of the smallest fold
  kept = min(components, flat.shape[1], fitted)
  split = sklearn.model_selection.StratifiedKFold(
    folds, shuffle=True, random_state=seed
  )
  found = {name: np.empty(len(images)) for name in ("logistic", "forest")}
  for fit, rest in split.split(flat, member):
    reduced = sklearn.pipeline.make_pipeline(
      sklearn.decomposition.PCA(kept, random_state=seed),
      sklearn.preprocessing.StandardScaler(),
    )
    known, unknown = reduced.fit_transform(flat[fit]), flat[rest]
    unknown = reduced.transform(unknown)
    for name, model in (
      ("logistic", sklearn.linear_model.LogisticRegression(max_iter=1000)),
      (
        "forest",
        sklearn.ensemble.RandomForestClassifier(
          trees, min_samples_leaf=5, random_state=seed
        ),
      ),
    ):
      model.fit(known, member[fit])
      found[name][rest] = np.asarray(model.predict_proba(unknown))[:, 1]
  return found


def control(
  images: UInt8[np.ndarray, "n h w c"],
  inside: Bool[np.ndarray, "m n"],
  *,
  components: int,
  trees: int,
  folds: int,
  bootstrap: int,
  seed: int,
) -> dict[str, Any]:
  """AUC of each classifier, pooled over models; passes unless above 1/2.

  Resampling the images does not show that a classifier fitted on others would
  score them otherwise, so that intervals are too short, and there are two
  classifiers. An AUC counts as above 1/2 where its 98% interval is: in 6 of
  100 fair splits of digits (8 with the 95% interval).

  Args:
    images: of members and non-members.
    inside: which are members of model m; one row an independent split.
    components: see `scores`.
    trees: see `scores`.
    folds: see `scores`.
    bootstrap: resamples behind each interval.
    seed: of folds, classifiers and resamples.
  """
  options = {"components": components, "trees": trees, "folds": folds}
  each = [scores(images, row, **options, seed=seed) for row in inside]
  found: dict[str, Any] = {"images": len(images), "splits": len(inside)}
  passes = True
  for name in each[0]:
    values = np.stack([one[name] for one in each])

    def auc(level: float, values: np.ndarray = values) -> list[float]:
      made = stats.pooled(
        values, inside, fprs=(), resamples=bootstrap, level=level, seed=seed
      )["auc"]
      assert made is not None
      return made

    found[name] = {"auc": auc(0.95)}
    passes &= auc(0.98)[1] <= 0.5
  best = max(each[0], key=lambda name: found[name]["auc"][0])
  value, low, high = found[best]["auc"]
  said = "cannot be told apart" if passes else "can be told apart"
  return found | {
    "passes": bool(passes),
    "says": f"Without the model, by pixels alone, members and held-out images "
    f"{said}: the better of two classifiers has an AUC of {value:.3f} "
    f"({low:.3f} to {high:.3f})."
    + ("" if passes else " The split leaks; attacks may be reading it."),
  }
