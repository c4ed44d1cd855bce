# SPDX-License-Identifier: Apache-2.0
"""Statistics of audits: ROC, intervals, counts of ids, match thresholds.

A score is higher for members; a distance is smaller for closer images.
"""

from diffmem.stats.calibration import Calibration, calibrate
from diffmem.stats.curves import (
  auc,
  best_accuracy,
  interval,
  roc,
  summary,
  tpr_at,
)
from diffmem.stats.jackknife import Estimate, jackknife
from diffmem.stats.pooled import pooled
from diffmem.stats.pooled import rate as pooled_rate
from diffmem.stats.rates import (
  clopper_pearson,
  hypergeometric_tail,
  overlap_tail,
  rarefaction,
)
from diffmem.stats.seeds import Seeds, holm, student

__all__ = [
  "Calibration",
  "Estimate",
  "Seeds",
  "auc",
  "best_accuracy",
  "calibrate",
  "clopper_pearson",
  "holm",
  "hypergeometric_tail",
  "interval",
  "jackknife",
  "overlap_tail",
  "pooled",
  "pooled_rate",
  "rarefaction",
  "roc",
  "student",
  "summary",
  "tpr_at",
]
