# SPDX-License-Identifier: Apache-2.0
"""The definitions, on numbers worked out by hand and against SciPy."""

import numpy as np
from scipy.spatial import distance

from diffmem.distances import metrics


def test_by_hand():
  a = np.array([[0, 0], [255, 0]], np.uint8)
  b = np.array([[0, 0], [255, 255], [3, 4]], np.uint8)
  squared = metrics.squared(a, b)
  np.testing.assert_array_equal(
    squared, [[0, 130050, 25], [65025, 65025, 252**2 + 16]]
  )
  assert squared.dtype == np.int64
  rms = metrics.rms(squared, 2)
  np.testing.assert_allclose(rms[0], [0, 1, np.sqrt(12.5) / 255], rtol=1e-15)


def test_against_scipy_on_images():
  rng = np.random.default_rng(0)
  a = rng.integers(0, 256, (4, 5, 6, 3), dtype=np.uint8)
  b = rng.integers(0, 256, (3, 5, 6, 3), dtype=np.uint8)
  expected = distance.cdist(a.reshape(4, -1) / 255, b.reshape(3, -1) / 255)
  np.testing.assert_allclose(
    metrics.rms(metrics.squared(a, b), 90), expected / np.sqrt(90), rtol=1e-12
  )
