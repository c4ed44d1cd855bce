# SPDX-License-Identifier: Apache-2.0
"""Scores are those of the papers' formulas in PyTorch, on the same weights."""

import numpy as np
import pytest
import scipy.stats

from diffmem import data, membership

pytest.importorskip("torch", reason="the extra [torch] is not installed")
pytestmark = pytest.mark.torch

from tests import torch_attacks, torch_ddpm  # noqa: E402

IMAGES = data.load("digits").images[:48]


@pytest.fixture(scope="module")
def both():
  """Trained a little: at random weights no attack has anything to cancel."""
  return torch_ddpm.trained_and_converted(IMAGES[:24])


@pytest.mark.parametrize(
  ("name", "theirs"),
  [
    ("secmi", torch_attacks.secmi),
    ("pia", torch_attacks.pia),
    ("pian", lambda *args: torch_attacks.pia(*args, normalised=True)),
  ],
)
def test_scores_are_those_of_torch(name, theirs, both):
  network, denoiser = both
  ours = membership.score(name, denoiser, IMAGES, t=100, progress=False)
  expected = -theirs(network, torch_ddpm.to_floats(IMAGES), 100)
  assert np.std(expected) > 0.01 * np.abs(expected).mean()
  np.testing.assert_allclose(ours, expected, rtol=2e-3)
  assert scipy.stats.spearmanr(ours, expected).statistic > 0.999


def test_secmi_of_the_authors_program(both):
  network, denoiser = both
  ours = membership.score(
    "secmi", denoiser, IMAGES, t=100, mode="official", progress=False
  )
  expected = -torch_attacks.secmi(network, torch_ddpm.to_floats(IMAGES), 90)
  np.testing.assert_allclose(ours, expected, rtol=2e-3)


def test_the_grid_of_their_program_is_near_the_exact_auc():
  from diffmem import stats

  rng = np.random.default_rng(0)
  members, others = rng.normal(0, 1, 400), rng.normal(1, 1, 400)
  auc, tpr = torch_attacks.on_a_grid(members, others)
  # Its last threshold is below the largest score, which costs up to 1 / 400.
  exact = stats.auc(-members, -others)
  assert exact - 5e-3 < auc < exact + 2e-3
  assert tpr == pytest.approx(stats.tpr_at(-members, -others, 0.01), abs=0.03)
