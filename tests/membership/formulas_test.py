# SPDX-License-Identifier: Apache-2.0
"""Each attack against its formula, transcribed in NumPy in float64.

The network is eps(x, t) = 0.4 x + 0.3 sin(t) w, in closed form.
"""

import itertools
import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import membership
from diffmem.denoiser import Denoiser
from diffmem.diffusion import schedules
from diffmem.membership import pfami, pia, queries, rediffuse, secmi, signals

SCHEDULE = schedules.linear()
SHAPE = (5, 4, 2)
AB = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
WAVE = np.cos(np.arange(40)).reshape(SHAPE)
IMAGES = np.random.default_rng(0).integers(0, 256, (11, *SHAPE), np.uint8)
X0 = IMAGES.astype(np.float64) / 127.5 - 1
TIMES = (20, 100, 37)


def traced(x_t, t, cond):
  wave = jnp.asarray(WAVE, jnp.float32)[None]
  return 0.4 * x_t + 0.3 * jnp.sin(1.0 * t)[:, None, None, None] * wave


MODEL = Denoiser(traced, SCHEDULE, SHAPE)


def eps(x, t):
  return 0.4 * x + 0.3 * np.sin(t) * WAVE


def noisy(x, t, noise):
  return np.sqrt(AB[t]) * x + np.sqrt(1 - AB[t]) * noise


def hop(x, t, u):
  e = eps(x, t)
  x0 = (x - np.sqrt(1 - AB[t]) * e) / np.sqrt(AB[t])
  return np.sqrt(AB[u]) * x0 + np.sqrt(1 - AB[u]) * e


def draw(t, j, seed=0):
  return np.asarray(queries.noise(seed, t, j, SHAPE), np.float64)


def total(x):
  return x.sum((1, 2, 3))


def scores(name, t=TIMES, model=MODEL, **options):
  return membership.score(name, model, IMAGES, t=t, batch=4, **options)


def close(got, expected):
  np.testing.assert_allclose(got, expected, rtol=1e-5, atol=0)


def secmi_error(path, k=10):
  x = X0
  for t, u in itertools.pairwise(path):
    x = hop(x, t, u)
  s = path[-1]
  return total((hop(hop(x, s, s + k), s + k, s) - x) ** 2)


def test_secmi_as_in_the_paper():
  expected = [
    secmi_error([*range(0, 20, 10), 20]),
    secmi_error(list(range(0, 101, 10))),
    secmi_error([0, 10, 20, 30, 37]),
  ]
  got = scores("secmi")
  np.testing.assert_allclose(got, -np.stack(expected, 1), rtol=1e-5)


def test_secmi_of_the_authors_program_measures_at_90():
  assert list(range(0, 100, 10)[1:]) == [*range(10, 91, 10)]
  at_90 = secmi_error([0, *range(10, 91, 10)])
  got = scores("secmi", t=100, mode="official")
  np.testing.assert_allclose(got, -at_90, rtol=1e-5)
  np.testing.assert_array_equal(got, scores("secmi", t=90))
  at_100 = scores("secmi", t=100)
  assert np.all(np.abs(got / at_100 - 1) > 1e-2)
  # Further cases of range(0, t, k)[-1].
  for t, k in ((100, 10), (50, 10), (95, 10), (91, 10), (7, 10), (101, 25)):
    assert secmi.measured(t, k, "official") == range(0, t, k)[-1]
  assert secmi.measured(0, 10, "official") == 0


def test_secmi_treats_the_image_as_index_0():
  """Not as free of noise; on a schedule where that is a large difference."""
  schedule = schedules.linear(steps=20, start=0.2, end=0.3)
  model = Denoiser(traced, schedule, SHAPE)
  got = -scores("secmi", t=1, interval=1, model=model)
  ab = schedule.alpha_bar
  e = eps(X0, 0)
  clean = (X0 - np.sqrt(1 - ab[0]) * e) / np.sqrt(ab[0])
  for x0, right in ((clean, True), (X0, False)):
    x = np.sqrt(ab[1]) * x0 + np.sqrt(1 - ab[1]) * e
    e1 = eps(x, 1)
    there = (x - np.sqrt(1 - ab[1]) * e1) / np.sqrt(ab[1])
    up = np.sqrt(ab[2]) * there + np.sqrt(1 - ab[2]) * e1
    e2 = eps(up, 2)
    there = (up - np.sqrt(1 - ab[2]) * e2) / np.sqrt(ab[2])
    again = np.sqrt(ab[1]) * there + np.sqrt(1 - ab[1]) * e2
    assert np.allclose(got, total((again - x) ** 2), rtol=1e-5) == right


@pytest.mark.parametrize("p", [4, 2, 1.5])
def test_pia_sums_powers_without_a_root(p):
  e0 = eps(X0, 0)
  expected = [total(np.abs(e0 - eps(noisy(X0, t, e0), t)) ** p) for t in TIMES]
  close(scores("pia", p=p), -np.stack(expected, 1))


@pytest.mark.parametrize(
  ("constant", "mean"),
  [("consistent", math.sqrt(2 / math.pi)), ("printed", math.sqrt(math.pi / 2))],
)
def test_pian(constant, mean):
  e0 = eps(X0, 0)
  e0 *= mean * 40 / total(np.abs(e0))[:, None, None, None]
  expected = [total((e0 - eps(noisy(X0, t, e0), t)) ** 4) for t in TIMES]
  close(scores("pian", normalise=constant), -np.stack(expected, 1))


def test_pian_is_scaled_like_noise_unless_asked():
  """The printed constant is pi / 2 larger than the mean of |N(0, 1)|."""
  np.testing.assert_array_equal(
    scores("pian"), scores("pian", normalise="consistent")
  )
  normal = np.abs(np.random.default_rng(0).standard_normal(100_000)).mean()
  means = pia.NORMALISE
  assert abs(means["consistent"] - normal) < 0.01
  assert means["printed"] / means["consistent"] == pytest.approx(math.pi / 2)


def test_pia_draws_no_noise():
  np.testing.assert_array_equal(scores("pia", seed=0), scores("pia", seed=1))


def test_sima_takes_the_image_as_it_is():
  expected = np.stack([total(eps(X0, t) ** 4) for t in TIMES], 1)
  close(scores("sima"), -expected)


def test_loss():
  x = {"identity": X0, "flip": X0[:, :, ::-1]}
  found = np.stack(
    [
      np.stack(
        [
          np.stack(
            [
              np.mean((eps(noisy(v, t, e), t) - e) ** 2, (1, 2, 3))
              for v in x.values()
            ],
            1,
          )
          for e in (draw(t, 0, 5), draw(t, 1, 5))
        ],
        1,
      )
      for t in TIMES
    ],
    1,
  )
  assert found.shape == (11, 3, 2, 2)
  options = {"draws": 2, "seed": 5}
  close(scores("loss", **options), -found[..., 0].mean(2))
  both = {**options, "augment": ("identity", "flip")}
  close(scores("loss", **both), -found.mean((2, 3)))
  close(scores("loss", **both, over="min"), -found.mean(2).min(2))


def crop(x, share, whole=False):
  """By way of each output pixel, one axis after the other."""
  for axis in (1, 2):
    size = x.shape[axis]
    lines = np.moveaxis(x, axis, 0)
    width, start = size * share, (size - size * share) / 2
    if whole:
      width = int(size * share)
      start = round((size - width) / 2)
      lines, start_at = lines[start : start + width], 0.0
    else:
      start_at = start
    out = []
    for i in range(size):
      at = min(
        max((i + 0.5) * width / size - 0.5 + start_at, 0), len(lines) - 1
      )
      low = int(at)
      high = min(low + 1, len(lines) - 1)
      out.append(lines[low] * (1 - (at - low)) + lines[high] * (at - low))
    x = np.moveaxis(np.stack(out), 0, axis)
  return x


def loss_at(x, t, j=0):
  e = draw(t, j)
  return np.mean((eps(noisy(x, t, e), t) - e) ** 2, (1, 2, 3))


@pytest.mark.parametrize("whole", [False, True])
def test_pfami(whole):
  times = [0, 20, 40]
  assert pfami.times(40, 3) == times
  shares = np.linspace(0.95, 0.7, 10)
  clean = np.stack([loss_at(X0, t) for t in times], 1)
  views = np.stack(
    [
      np.stack([loss_at(crop(X0, r, whole), t) for t in times], 1)
      for r in shares
    ],
    2,
  )
  moved = views - clean[..., None]
  change = moved / clean[..., None]

  def check(expected, **options: Any):
    got = scores("pfami", t=40, points=3, whole_pixels=whole, **options)
    scale = np.abs(change).max()
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5 * scale)

  check(change.mean((1, 2)))
  check(change[..., 5].mean(1), crop=5)
  check(moved.mean((1, 2)), change="absolute")


def test_pfami_of_the_paper_averages_over_0_to_450():
  assert pfami.times(450, 10) == list(range(0, 500, 50))
  attack = membership.ATTACKS["pfami"]
  options = attack.options()[0]
  assert attack.queries(t=(450,), **options) == 10 * 11


def test_a_crop_is_of_both_sides_and_of_no_channel():
  """Of a picture whose channels are x, y and a constant."""
  y, x = np.meshgrid(
    np.linspace(-1, 1, 9), np.linspace(-1, 1, 6), indexing="ij"
  )
  picture = np.stack([y, x, np.full_like(x, 0.5)], -1)[None]
  got = np.asarray(pfami.cropped(picture.astype(np.float32), 0.5, False))
  inner_y, inner_x = slice(1, 8), slice(1, 5)
  np.testing.assert_allclose(got[..., 2], 0.5, rtol=1e-6)
  np.testing.assert_allclose(
    got[0, inner_y, inner_x, :2],
    0.5 * picture[0, inner_y, inner_x, :2],
    atol=1e-6,
  )


def ddim_back(t, k, e, x0=X0):
  x = noisy(x0, t, e)
  while t > 0:
    x, t = hop(x, t, max(t - k, 0)), max(t - k, 0)
  return x


@pytest.mark.parametrize("norm", [1, 2])
def test_rediffuse(norm):
  expected = []
  for t in TIMES:  # 37 is no multiple of 50, and 100 has two hops
    mean = np.mean([ddim_back(t, 50, draw(t, r, 3)) for r in range(4)], 0)
    expected.append(total(np.abs(X0 - mean) ** norm))
  close(
    scores("rediffuse", repeats=4, norm=norm, seed=3), -np.stack(expected, 1)
  )


def test_rediffuse_needs_a_variation_call_alone():
  calls = []

  def vary(images, t, key):
    calls.append(t)
    noise = jax.random.normal(key, SHAPE)
    return 0.9 * np.asarray(images) + 0.01 * np.asarray(noise)[None]

  got = rediffuse.black_box(vary, IMAGES, t=70, repeats=3, seed=2, batch=4)
  noise = np.mean([draw(70, r, 2) for r in range(3)], 0)
  close(got, -total((0.1 * X0 - 0.01 * noise) ** 2))
  assert calls == [70] * 9
  with pytest.raises(ValueError, match=r"variation of images \(4, 5, 4, 2\)"):
    rediffuse.black_box(lambda x, t, key: x[:1], IMAGES, t=70, batch=4)
  with pytest.raises(FloatingPointError, match="11 images, the first is 0"):
    rediffuse.black_box(lambda x, t, key: x * np.nan, IMAGES, t=70)


def test_a_denoiser_is_a_variation_call():
  vary = rediffuse.variation(MODEL, interval=30)
  close(
    rediffuse.black_box(vary, IMAGES, t=100, repeats=2, batch=5),
    scores("rediffuse", t=100, repeats=2, interval=30),
  )


LEARN_NOTHING = [n for n, a in membership.ATTACKS.items() if a.fit is None]
FEW: dict[str, Any] = {
  "loss": {"draws": 2},
  "pfami": {"points": 2, "crops": 2},
  "rediffuse": {"repeats": 2},
}


@pytest.mark.parametrize("name", LEARN_NOTHING)
def test_a_host_model_and_latents_and_queries(name):
  """Each attack takes any denoiser, and asks as often as it says."""
  calls = []

  def on_host(x_t, t, cond):
    assert not isinstance(x_t, jax.core.Tracer)
    calls.append(len(x_t))
    return np.asarray(traced(x_t, t, cond))

  halves = {
    "encode": lambda images: images[..., :2] + images[..., 2:],
    "decode": lambda x: jnp.concatenate([x / 2, x / 2], -1),
  }
  double = np.concatenate([X0 / 2, X0 / 2], -1).astype(np.float32)
  few = FEW.get(name, {})
  options: dict[str, Any] = {"t": (20, 60), "batch": 6, **few}
  host = Denoiser(on_host, SCHEDULE, SHAPE, traceable=False, **halves)
  got = membership.score(name, host, double, **options)
  latent = Denoiser(traced, SCHEDULE, SHAPE, **halves)
  np.testing.assert_allclose(
    got, membership.score(name, latent, double, **options), rtol=1e-4
  )
  attack = membership.ATTACKS[name]
  expected = attack.queries(t=(20, 60), **attack.options(**few)[0])
  assert calls == [6] * expected + [5] * expected
  if name != "rediffuse":  # its distance is between images
    plain = scores(name, t=(20, 60), **few)
    np.testing.assert_allclose(got, plain, rtol=1e-3)


def test_options_are_checked_before_the_model_is_asked():
  def never(x_t, t, cond):
    raise AssertionError("asked")

  model = Denoiser(never, SCHEDULE, SHAPE)
  for name, options, message in [
    ("secmi", {"mode": "best"}, "mode = 'best': choose one of paper, offi"),
    ("secmi", {"t": 995}, "t = 995 with interval = 10 hops beyond"),
    ("secmi", {"interval": 0}, "interval = 0, expected at least 1"),
    ("secmi", {"intervall": 5}, "'secmi' has no option 'intervall': it takes"),
    ("pia", {"p": 0}, "p = 0, expected a positive power"),
    ("pia", {"normalise": "pi"}, "normalise = 'pi': choose one of none"),
    ("sima", {"p": -1}, "p = -1"),
    ("loss", {"augment": ("turn",)}, "unknown augmentation 'turn'"),
    ("loss", {"augment": "flip"}, "augment = 'flip': give a list"),
    ("loss", {"draws": 0}, "draws = 0"),
    ("pfami", {"strongest": 0.99}, "strongest <= weakest"),
    ("pfami", {"points": 0}, "points = 0"),
    ("rediffuse", {"repeats": 0}, "repeats = 0"),
    ("rediffuse", {"norm": 0}, "norm = 0"),
    ("sima", {"t": 1000}, "t=1000 is outside this schedule"),
    ("sima", {"t": ()}, "one or more distinct times"),
  ]:
    with pytest.raises(ValueError, match=message):
      scores(name, model=model, **options)
  latents = Denoiser(never, SCHEDULE, SHAPE, encode=lambda x: x)
  with pytest.raises(ValueError, match=r"rediffuse needs Denoiser\.decode"):
    scores("rediffuse", model=latents)


def test_options_of_scores_are_checked():
  losses = np.ones((2, 1, 1, 1, 3))
  with pytest.raises(ValueError, match="crop = 2: give 'mean', or 0 to 1"):
    pfami.scores(losses, crop=2)
  with pytest.raises(ValueError, match="change = 'all'"):
    pfami.scores(losses, change="all")
  with pytest.raises(ValueError, match="over = 'max'"):
    scores("loss", t=5, draws=1, over="max")


def test_the_seed_matters_to_those_that_draw():
  for name in LEARN_NOTHING:
    attack = membership.ATTACKS[name]
    few = FEW.get(name, {})
    zero, one = (scores(name, seed=i, **few) for i in (0, 1))
    same = np.array_equal(zero, one)
    assert same == ("seed" not in attack.defaults), name


def test_one_time_or_several():
  one = scores("sima", t=37)
  assert one.shape == (11,)
  assert one.dtype == np.float64
  np.testing.assert_array_equal(one, scores("sima")[:, 2])
  assert signals.keywords(pfami.SIGNAL.block) == pfami.SIGNAL.options
