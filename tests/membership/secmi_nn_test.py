# SPDX-License-Identifier: Apache-2.0
"""The network on error maps: what it learns from, and what it never sees."""

import jax
import numpy as np
import pytest

from diffmem import membership, stats
from diffmem.denoiser import Denoiser
from diffmem.diffusion import schedules
from diffmem.membership import secmi, secmi_nn, signals

SHORT = {"epochs": 8, "width": 4}


def maps(n, seed, t=1):
  """Members' errors lie at the left; their sizes tell nothing."""
  rng = np.random.default_rng(seed)
  is_member = np.arange(n) % 2 == 0
  errors = rng.random((n, t, 6, 6, 1)).astype(np.float32)
  errors[is_member, :, :, 3:] *= 0.3
  errors[~is_member, :, :, :3] *= 0.3
  size = np.exp(rng.normal(size=n)).astype(np.float32)
  return errors * size[:, None, None, None, None], is_member


def test_it_learns_where_the_error_is():
  known, truth = maps(40, 0)
  fitted = secmi_nn.fit(known, truth, width=4)
  unseen, answer = maps(40, 1)
  found = secmi_nn.scores(unseen, fitted)
  assert found.shape == (40, 1)
  assert stats.auc(found[answer, 0], found[~answer, 0]) > 0.95
  by_size = -(unseen**2).sum((1, 2, 3, 4))
  assert stats.auc(by_size[answer], by_size[~answer]) < 0.7


def test_the_epoch_is_the_best_of_the_validation_share():
  """On labels that tell nothing training soon overfits: an early epoch."""
  known, _ = maps(40, 0)
  truth = np.random.default_rng(1).permutation(np.arange(40) % 2 == 0)
  options = {"width": 4, "lr": 0.1, "minibatch": 8}
  (long,) = secmi_nn.fit(known, truth, epochs=12, **options)
  assert len(long.validation) == 12
  assert long.epoch == np.argmin(long.validation) < 11
  (short,) = secmi_nn.fit(known, truth, epochs=long.epoch + 1, **options)
  assert short.validation == long.validation[: long.epoch + 1]
  jax.tree.map(np.testing.assert_array_equal, short.params, long.params)


def test_a_score_depends_on_its_own_image_and_the_calibration_alone():
  known, truth = maps(40, 0, t=2)
  fitted = secmi_nn.fit(known, truth, **SHORT)
  unseen, _ = maps(40, 1, t=2)
  found = secmi_nn.scores(unseen, fitted)
  alone = secmi_nn.scores(unseen[4:5], fitted)
  np.testing.assert_allclose(alone[0], found[4], rtol=1e-5)
  in_parts = secmi_nn.scores(unseen, fitted, batch=20)
  np.testing.assert_allclose(in_parts, found, rtol=1e-5)
  again = secmi_nn.fit(known, truth, **SHORT)
  np.testing.assert_array_equal(secmi_nn.scores(unseen, again), found)
  other = secmi_nn.fit(known, truth, seed=1, **SHORT)
  assert np.any(secmi_nn.scores(unseen, other) != found)


def test_maps_are_those_of_the_statistic():
  model = Denoiser(
    lambda x, t, cond: 0.4 * x**2 + t[:, None, None, None] / 1000,
    schedules.linear(),
    (4, 4, 1),
  )
  images = np.random.default_rng(0).integers(0, 256, (5, 4, 4, 1), np.uint8)
  options = {"t": (20, 35), "interval": 10, "mode": "official"}
  each = signals.compute(model, images, secmi_nn.SIGNAL, **options)
  assert each.shape == (5, 2, 4, 4, 1)
  total = signals.compute(model, images, secmi.SIGNAL, **options)
  np.testing.assert_allclose((each**2).sum((2, 3, 4)), total, rtol=1e-5)


def test_refused():
  known, truth = maps(8, 0)
  with pytest.raises(ValueError, match="1 members, expected at least 2"):
    secmi_nn.fit(known, np.arange(8) == 0)
  with pytest.raises(ValueError, match="epochs = 0"):
    secmi_nn.fit(known, truth, epochs=0)
  with pytest.raises(ValueError, match=r"validation = 1\.0, expected"):
    secmi_nn.fit(known, truth, validation=1.0)
  fitted = secmi_nn.fit(known, truth, **SHORT)
  with pytest.raises(ValueError, match="maps of 2 times for networks of 1"):
    secmi_nn.scores(np.zeros((3, 2, 6, 6, 1), np.float32), fitted)


def test_its_options_reach_it():
  attack = membership.ATTACKS["secmi_nn"]
  of_signal, of_scores, of_fit = attack.options(seed=3, width=4, mode="paper")
  assert of_signal == {"interval": 10, "mode": "paper"}
  assert of_scores == {}
  assert of_fit["seed"] == 3
  assert of_fit["width"] == 4
  assert set(of_fit) == set(signals.keywords(secmi_nn.fit))
