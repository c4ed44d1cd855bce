# SPDX-License-Identifier: Apache-2.0
"""Gradient norms against closed forms and a plain loop over jax.grad."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import store
from diffmem.denoiser import Denoiser
from diffmem.diffusion import schedules
from diffmem.membership import gradients, queries, signals

SCHEDULE = schedules.linear()
SHAPE = (2, 3, 1)
D = 6
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (11, *SHAPE), np.uint8)
TIMES = (10, 300, 700)
OPTIONS = {"t": TIMES, "draws": 2, "seed": 3, "progress": False}


def linear(traceable=True):
  """Predicted noise A x + b: its gradients are known."""
  params = {
    "A": jnp.asarray(RNG.normal(size=(D, D)), jnp.float32),
    "b": jnp.asarray(RNG.normal(size=D), jnp.float32),
    "count": jnp.arange(3),
  }

  def apply(params, x, t, cond):
    flat = x.reshape(len(x), -1) @ params["A"].T + params["b"][None]
    return flat.reshape(x.shape)

  return Denoiser(
    apply=apply,
    params=params,
    schedule=SCHEDULE,
    shape=SHAPE,
    traceable=traceable,
  )


def closed_form(model, norms):
  """With r = A x_t + b - eps: grad_A = (2 / d) r x_t', grad_b = (2 / d) r."""
  a, b = (np.asarray(model.params[k], np.float64) for k in ("A", "b"))
  alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
  found = []
  for image in IMAGES.reshape(-1, D) / 127.5 - 1:
    by_time = []
    for t in TIMES:
      pairs = []
      for j in range(2):
        eps = np.asarray(queries.noise(3, t, j, SHAPE), np.float64).ravel()
        x_t = np.sqrt(alpha_bar[t]) * image + np.sqrt(1 - alpha_bar[t]) * eps
        r = a @ x_t + b - eps
        pairs.append([2 / D * np.outer(r, x_t), 2 / D * r])
      by_time.append([np.mean(g, axis=0) for g in zip(*pairs, strict=True)])
    if norms == "mean":
      by_time = [[np.mean(g, axis=0) for g in zip(*by_time, strict=True)]]
    found.append([[np.sum(g**2) for g in layers] for layers in by_time])
  return np.array(found)


@pytest.mark.parametrize("batch", [5, 11])
@pytest.mark.parametrize("norms", gradients.NORMS)
def test_a_linear_denoiser_has_known_norms(norms, batch):
  model = linear()
  got = signals.compute(
    model, IMAGES, gradients.SIGNAL, norms=norms, batch=batch, **OPTIONS
  )
  np.testing.assert_allclose(got, closed_form(model, norms), rtol=2e-4)
  assert gradients.layers(model.params) == ("['A']", "['b']")


def test_groups_do_not_matter(monkeypatch):
  model = linear()
  compute = signals.compute
  args = (model, np.repeat(IMAGES, 3, 0), gradients.SIGNAL)
  one = compute(*args, norms="each", **OPTIONS)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  all_at_once = compute(*args, norms="each", **OPTIONS)
  np.testing.assert_allclose(one, all_at_once, rtol=1e-5)
  monkeypatch.setattr(gradients, "GROUP", 2 * 4 * (D * D + D + 3))
  two = compute(*args, norms="each", **OPTIONS)
  np.testing.assert_allclose(one, two, rtol=1e-5)


def convolving():
  """Two convolutions and a class embedding between them."""
  params = {
    "one": jnp.asarray(RNG.normal(size=(3, 3, 1, 4)), jnp.float32),
    "two": jnp.asarray(RNG.normal(size=(3, 3, 4, 1)), jnp.float32),
    "classes": jnp.asarray(RNG.normal(size=(3, 4)), jnp.float32),
  }

  def convolve(x, kernel):
    numbers = ("NHWC", "HWIO", "NHWC")
    return jax.lax.conv_general_dilated(
      x, kernel, (1, 1), "SAME", dimension_numbers=numbers
    )

  def apply(params, x, t, cond):
    hidden = convolve(x, params["one"]) + params["classes"][cond][:, None, None]
    hidden = jnp.tanh(hidden) * jnp.cos(t / 100.0)[:, None, None, None]
    return convolve(hidden, params["two"])

  return Denoiser(
    apply=apply,
    params=params,
    schedule=SCHEDULE,
    shape=(4, 4, 1),
    num_classes=2,
    null_cond=2,
  )


def test_a_network_that_convolves(monkeypatch, tmp_path):
  """One by one as on CPU, in groups as elsewhere, and jax.grad by itself."""
  network = convolving()
  images = RNG.integers(0, 256, (16, 4, 4, 1), np.uint8)
  labels = np.arange(16) % 3
  options = {**OPTIONS, "norms": "mean", "cond": labels}
  got = signals.compute(
    network, images, gradients.SIGNAL, path=tmp_path / "g", **options
  )
  assert got.shape == (16, 1, 3)
  np.testing.assert_array_equal(store.open(tmp_path / "g")[:], got)

  def loss(params, x0, label):
    total = 0.0
    for t in TIMES:
      alpha_bar = SCHEDULE.alpha_bar[t]
      for j in range(2):
        eps = queries.noise(3, t, j, (4, 4, 1))
        x_t = np.sqrt(alpha_bar) * x0 + np.sqrt(1 - alpha_bar) * eps
        time = jnp.full((1,), t, jnp.int32)
        out = network.apply(params, x_t[None], time, label[None])
        total += jnp.mean((out[0] - eps) ** 2)
    return total / 6

  gradient = jax.jit(jax.grad(loss))
  for i in (0, 7, 15):
    x0 = jnp.asarray(images[i], jnp.float32) / 127.5 - 1
    found = gradient(network.params, x0, jnp.int32(labels[i]))
    expected = [float(jnp.sum(g**2)) for g in jax.tree.leaves(found)]
    np.testing.assert_allclose(got[i, 0], expected, rtol=1e-4)
  monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
  grouped = signals.compute(network, images, gradients.SIGNAL, **options)
  np.testing.assert_allclose(grouped, got, rtol=1e-4)


def test_times():
  assert gradients.equidistant(1000) == tuple(range(50, 1000, 100))
  assert gradients.equidistant(3, 3) == (0, 1, 2)
  with pytest.raises(ValueError, match="4 times of a schedule of 3"):
    gradients.equidistant(3, 4)


def test_what_has_no_gradients_is_refused():
  def compute(model, **options):
    options = {"norms": "each", **OPTIONS, **options}
    return signals.compute(model, IMAGES, gradients.SIGNAL, **options)

  closed = Denoiser(lambda x, t, c: x, SCHEDULE, SHAPE)
  with pytest.raises(ValueError, match=r"needs Denoiser.params"):
    compute(closed)
  with pytest.raises(ValueError, match="this one has traceable=False"):
    compute(linear(traceable=False))
  with pytest.raises(ValueError, match="norms 'sum': choose one of mean, each"):
    compute(linear(), norms="sum")
  with pytest.raises(ValueError, match="draws = 0"):
    compute(linear(), draws=0)
