# SPDX-License-Identifier: Apache-2.0
"""CLiD: the conditional discrepancy, with classes, texts and embeddings."""

import numpy as np
import pytest

from diffmem import arrays, membership, stats
from diffmem.denoiser import Denoiser, captioned_set
from diffmem.diffusion import schedules
from diffmem.membership import clid, queries

SCHEDULE = schedules.linear()
RNG = np.random.default_rng(0)
PIXELS = RNG.integers(0, 256, (40, 4, 4, 1), np.uint8)
IMAGES = np.asarray(arrays.from_uint8(PIXELS))
CAPTIONS = {
  "tokens": RNG.normal(size=(10, 6, 3)).astype(np.float32),
  "mask": np.arange(6)[None] < RNG.integers(3, 7, 10)[:, None],
}


def cond(ids):
  return {name: leaf[ids] for name, leaf in CAPTIONS.items()}


@pytest.fixture(scope="module")
def model():
  """20 members, two a caption."""
  return captioned_set(IMAGES[:20], np.arange(20) % 10, CAPTIONS, SCHEDULE)


def test_shares_of_a_text_are_taken_from_its_end():
  null = {"tokens": np.zeros((6, 3)), "mask": np.zeros(6, bool)}
  whole = cond([0, 1, 2, 3])
  short, none = clid.reduced(whole, null, (0.5,))
  counts = whole["mask"].sum(1)
  np.testing.assert_array_equal(
    short["mask"].sum(1), np.ceil(counts / 2).astype(int)
  )
  assert not np.any(short["mask"] & ~whole["mask"])
  assert short["mask"][:, 0].all()
  np.testing.assert_array_equal(
    short["tokens"], whole["tokens"] * short["mask"][..., None]
  )
  assert not np.any(none["mask"])


def test_shares_of_embeddings_and_of_labels():
  null = np.full((6, 3), 9.0, np.float32)
  short, none = clid.reduced(CAPTIONS["tokens"], null, (0.3,))
  np.testing.assert_array_equal(short[:, :5], CAPTIONS["tokens"][:, :5])
  assert (np.asarray(short[:, 5:]) == 9).all()
  assert (np.asarray(none) == 9).all()
  (only,) = clid.reduced(np.arange(4, dtype=np.int32), np.int32(7), (0.3,))
  assert only.tolist() == [7, 7, 7, 7]


def test_the_signal_is_the_loss_with_and_without(model):
  t, seed = 200, 3
  values = membership.signals.compute(
    model,
    PIXELS[:5],
    clid.SIGNAL,
    t=(t,),
    cond=cond(np.arange(5)),
    progress=False,
    draws=2,
    clipped=(0.5,),
    seed=seed,
  )
  assert values.shape == (5, 1, 2, 3)
  eps = np.asarray(queries.noise(seed, t, 1, (4, 4, 1)))
  ab = SCHEDULE.alpha_bar[t]
  x_t = np.sqrt(ab) * IMAGES[:5] + np.sqrt(1 - ab) * eps
  times = np.full(5, t)
  for view, given in ((0, cond(np.arange(5))), (2, None)):
    gap = np.asarray(model.eps(x_t.astype(np.float32), times, given)) - eps
    np.testing.assert_allclose(
      values[:, 0, 1, view], (gap**2).mean((1, 2, 3)), rtol=1e-3, atol=1e-6
    )


def test_scores_by_hand():
  losses = RNG.random((30, 2, 3, 4))
  is_member = np.arange(30) % 2 == 0
  fitted = clid.fit(losses, is_member, alpha=0.3)
  mean = losses.mean(2)[:, 1]
  gap, plain = mean[:, 1:].mean(1) - mean[:, 0], -mean[:, 0]

  def scaled(v):
    low, middle, high = np.quantile(v, [0.25, 0.5, 0.75])
    return (v - middle) / (high - low)

  np.testing.assert_allclose(
    clid.scores(losses, fitted)[:, 1],
    0.3 * scaled(gap) + 0.7 * scaled(plain),
  )


@pytest.mark.parametrize("form", clid.FORMS)
def test_members_are_told_by_their_captions(model, form):
  """Fitted on half of both, reported on the other half."""
  captions = np.concatenate([np.arange(20) % 10, RNG.integers(0, 10, 20)])
  known = np.arange(40) % 2 == 0
  found = membership.score(
    "clid",
    model,
    PIXELS[~known],
    t=400,
    cond=cond(captions[~known]),
    calibration=(
      PIXELS[known],
      (np.arange(40) < 20)[known],
      cond(captions[known]),
    ),
    form=form,
    draws=2,
  )
  assert stats.auc(found[:10], found[10:]) > 0.9


@pytest.mark.parametrize("told", ["D", "L"])
def test_alpha_weighs_what_tells(told):
  is_member = np.arange(60) < 30
  losses = np.zeros((60, 1, 1, 2))
  noise = RNG.normal(size=60) * 10
  if told == "D":
    losses[:, 0, 0] = noise[:, None]
    losses[is_member, 0, 0, 1] += 1
  else:
    losses[:, 0, 0, 0] = ~is_member
    losses[:, 0, 0, 1] = noise
  (fitted,) = clid.fit(losses, is_member)
  assert (fitted.alpha > 0.3) == (told == "D")
  found = clid.scores(losses, [fitted])[:, 0]
  assert found[is_member].min() > found[~is_member].max()
  chance = clid.scores(losses, clid.fit(losses, is_member, alpha=0.05))[:, 0]
  assert (chance[is_member].min() > chance[~is_member].max()) == (told == "L")


def test_what_cannot_be_is_named(model):
  plain = Denoiser(eps=lambda x, t, cond: x, schedule=SCHEDULE, shape=(4, 4, 1))
  known = (PIXELS[:4], np.array([1, 1, 0, 0]), cond([0, 1, 2, 3]))

  def run(model=model, **options):
    given = dict(cond=cond([0, 1]), calibration=known) | options
    return membership.score("clid", model, PIXELS[:2], **given)

  with pytest.raises(ValueError, match=r"'clid' needs Denoiser.null_cond"):
    run(plain, cond=None)
  with pytest.raises(ValueError, match=r"clipped = \(1.5,\): expected shares"):
    run(clipped=(1.5,))
  with pytest.raises(ValueError, match="form = 'nn': choose one of threshold"):
    run(form="nn")
  with pytest.raises(ValueError, match=r"alpha = 2.0: expected a weight"):
    run(alpha=2.0)
