# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import models
from diffmem.diffusion import process, schedules
from diffmem.extraction import side_losses
from diffmem.models import classifier

SHAPE = (4, 4, 1)
SCHEDULE = schedules.linear(100)
NETWORKS = {
  "unet": (
    dict(
      width=8, multipliers=(1,), blocks=1, attention=(4,), heads=1, groups=4
    ),
    ("attention", "convolution"),
  ),
  "mlp": (dict(width=8, blocks=1), ("dense",)),
}  # fmt: skip


@pytest.fixture(scope="module")
def batch():
  rng = np.random.default_rng(0)
  return {
    "image": rng.integers(0, 256, (5, *SHAPE), dtype=np.uint8),
    "label": rng.integers(0, 3, 5).astype(np.int32),
  }


@pytest.fixture(scope="module")
def trio():
  """A plain classifier, a timed one, and weights of both."""
  made = [
    classifier.create(
      "mlp", shape=SHAPE, classes=3, timed=timed, width=8, blocks=1
    )
    for timed in (False, True)
  ]
  return *made, *(m.init(jax.random.key(i)) for i, m in enumerate(made))


def noised(batch, key):
  x0, t, eps = side_losses.draw(batch["image"], key, 100)
  return x0, t, process.add_noise(x0, eps, t, SCHEDULE.alpha_bar)


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_cross_entropy_is_its_definition(trio, batch, smoothing):
  plain, timed, weights, other = trio
  key = jax.random.key(7)
  x0, t, x_t = noised(batch, key)
  target = (1 - smoothing) * np.eye(3)[batch["label"]] + smoothing / 3
  for made, params, x, at in (
    (plain, weights, x0, 0 * t),
    (timed, other, x_t, t),
  ):
    loss = side_losses.classify(made, SCHEDULE, smoothing=smoothing)
    logits = np.asarray(made.apply(params, x, at), np.float64)
    p = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    expected = -(target * np.log(p)).sum(axis=1)
    found = loss(params, None, batch, key)
    np.testing.assert_allclose(found, expected, rtol=1e-4)


def test_distillation_is_the_divergence_from_the_teacher(trio, batch):
  plain, timed, weights, other = trio
  key = jax.random.key(7)
  x0, t, x_t = noised(batch, key)
  loss = side_losses.distil(timed, plain, SCHEDULE, temperature=2.0)
  said = []
  for logits in (plain.apply(weights, x0, t), timed.apply(other, x_t, t)):
    e = np.exp(np.asarray(logits, np.float64) / 2.0)
    said.append(e / e.sum(axis=1, keepdims=True))
  expected = (said[0] * np.log(said[0] / said[1])).sum(axis=1)
  found = loss(other, weights, batch, key)
  np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-6)
  assert (expected > 0).all()


@pytest.mark.parametrize("name", NETWORKS)
def test_adapters_start_as_the_model_and_learn_the_class(name, batch):
  knobs, kinds = NETWORKS[name]
  plain = models.create(name, shape=SHAPE, **knobs)
  frozen = jax.tree.map(
    lambda w: w + 0.1, plain.init(jax.random.key(0))
  )  # no branch is nothing
  conditional = models.create(name, shape=SHAPE, num_classes=3, **knobs)
  apply = side_losses.adapted(conditional, alpha=2.0, learned_variance=False)
  made = side_losses.adapters(conditional, frozen, rank=2, kinds=kinds)
  trained = jax.jit(made)(jax.random.key(1))
  x = jnp.asarray(np.random.default_rng(1).normal(size=(5, *SHAPE)))
  t = jnp.arange(5) * 20
  weights = {"frozen": frozen, "trained": trained}
  found = jax.jit(apply)(weights, x, t, batch["label"])
  expected = jax.jit(plain.apply, static_argnums=3)(frozen, x, t, None)
  np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)

  loss = side_losses.adapt(apply, SCHEDULE, prediction="eps")

  def total(trained):
    return loss(trained, frozen, batch, jax.random.key(2)).mean()

  slopes = jax.jit(jax.grad(total))(trained)
  assert float(np.abs(slopes["table"][:3]).max()) > 0
  assert all(
    float(np.abs(one["b"]).max()) > 0 for one in slopes["adapters"].values()
  )
