# SPDX-License-Identifier: Apache-2.0
"""The step of a GAN: what it moves, when it pays, and that it learns."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import keys, mesh
from diffmem.train import gan_penalties, gan_program, gan_step
from tests import tiny_gan

TRAIN = {
  "lr": 2e-3, "warmup": 0, "steps": 100, "decay": "constant", "ema": 0.9,
}  # fmt: skip
NONE = {"name": "none"}
ADVERSARIAL = {
  "loss": "logistic",
  "penalties": {},
  "augment": NONE,
  "negatives": None,
  "updates": 1,
  "discriminator_lr": 1e-3,
  "betas": (0.0, 0.99),
}


def made(classes=None, train=None, **changes):
  gan = tiny_gan.create(num_classes=classes)
  parts = gan_program.parts(gan, ADVERSARIAL | changes, TRAIN | (train or {}))
  init = jax.jit(
    functools.partial(gan_step.init, parts),
    out_shardings=mesh.replicated(mesh.data_mesh()),
  )
  return parts, gan_step.create(parts), init(keys.root(0))


def batch(parts, b=16, seed=0):
  """Bright squares in dark images, at two places."""
  rng = np.random.default_rng(seed)
  n = b * parts.updates
  image, label = np.zeros((n, 8, 8, 1), np.uint8), rng.integers(0, 2, n)
  for x, where in zip(image, label, strict=True):
    x[2:6, 4 * where : 4 * where + 4] = rng.integers(200, 255)
  return mesh.shard(
    {"image": image, "label": label.astype(np.int32)}, mesh.data_mesh()
  )


def run(parts, step, state, steps=1):
  seen = []
  for i in range(steps):
    state, metrics = step(state, batch(parts, seed=i), keys.root(1), i)
    seen.append({k: float(v) for k, v in metrics.items()})
  return state, seen


def test_the_first_step_is_as_by_hand():
  """One update of each with plain gradients of the written losses."""
  parts, step, state = made()
  before = jax.device_get(state)
  after, (metrics,) = run(parts, step, state)
  gan, own = parts.gan, before["ema"]["discriminator"]

  @jax.jit
  def by_hand(batch):
    real, _ = gan_step._real(parts, batch, 0)
    now = keys.stream(keys.root(1), "discriminator", 0, 0)
    z = jax.random.normal(keys.stream(now, "z"), (16, gan.latent))
    fake, _ = gan.generator.apply(before["generator"], z, None)

    def loss(params):
      variables = {"params": params, "state": own["state"]}
      r, f = (
        gan.discriminator.apply(variables, x, None)[0] for x in (real, fake)
      )
      return (jnp.log1p(jnp.exp(-r)) + jnp.log1p(jnp.exp(f))).mean()

    return jax.value_and_grad(loss)(own["params"])

  value, grads = jax.device_get(by_hand(batch(parts)))
  assert metrics["loss"] == pytest.approx(float(value), rel=1e-4)
  # Adam's first step is as long as its learning rate, against the sign.
  moved = jax.tree.map(
    lambda a, b: np.asarray(a) - b,
    after["ema"]["discriminator"]["params"],
    own["params"],
  )
  for name, step_taken in moved.items():
    sure = np.abs(grads[name]) > 1e-4
    np.testing.assert_allclose(
      step_taken[sure], -1e-3 * np.sign(grads[name])[sure], rtol=0.05
    )
  assert float(after["ema"]["discriminator"]["state"]["seen"]) == 2
  assert float(after["generator"]["state"]["seen"]) == 1
  d = 1 / 10  # the average is short at first
  for name, old in before["generator"]["params"].items():
    new = np.asarray(after["generator"]["params"][name])
    np.testing.assert_allclose(
      after["ema"]["generator"]["params"][name],
      old + (1 - d) * (new - old),
      atol=1e-6,
    )


def test_lazy_penalties_come_every_kth_step_k_times_as_heavy():
  penalties = {"r1": {"weight": 0.1, "every": 3}}
  parts, step, state = made(penalties=penalties)
  first = jax.device_get(state)
  _, seen = run(parts, step, state, 7)
  assert ["r1" in one for one in seen] == [True, False, False] * 2 + [True]
  own = first["ema"]["discriminator"]

  @jax.jit
  def by_hand(batch):
    real, _ = gan_step._real(parts, batch, 0)
    return gan_penalties.r1(
      lambda x: parts.gan.discriminator.apply(own, x, None)[0], real
    ).mean()

  expected = float(by_hand(batch(parts)))
  assert seen[0]["r1"] == pytest.approx(expected, rel=1e-4)
  plain = run(*made())[1][0]
  assert seen[0]["loss"] == pytest.approx(plain["loss"], rel=1e-5)
  assert seen[0]["grad_norm"] != pytest.approx(plain["grad_norm"], rel=1e-3)


def test_everything_fits_together():
  """Two classes, every penalty, augmentation and negatives in one step."""
  parts, step, state = made(
    classes=2,
    loss="hinge",
    penalties={
      "r1": {"weight": 0.01, "every": 4},
      "gradient": {"weight": 0.01, "every": 4, "one_sided": True},
      "lipschitz": {
        "weight": 0.01, "every": 4, "k": 1.0, "xi": 10.0, "least": 0.1,
        "most": 10.0,
      },
      "path_length": {"weight": 0.01, "every": 4, "decay": 0.01, "shrink": 2},
    },
    augment={
      "name": "ada", "blit": False, "geometry": False, "colour": True,
      "start": 0.0, "target": 0.6, "interval": 2, "images": 2000,
    },
    negatives={"name": "jigsaw", "share": 0.25},
    updates=2,
  )  # fmt: skip
  state, (seen,) = run(parts, step, state)
  assert {"r1", "gradient", "lipschitz", "path_length"} <= set(seen)
  assert seen["images"] == 32
  assert float(state["path"]) > 0
  # Two updates are two batches: the controller has moved, one way or not.
  assert float(state["augment"]["seen"]) == 0
  assert float(state["augment"]["p"]) in (0.0, pytest.approx(2 * 16 / 2000))
  assert all(np.isfinite(value) for value in seen.values())


def test_it_learns_where_the_squares_are():
  fast = {"discriminator_lr": 1e-2, "train": {"lr": 1e-2}}
  parts, step, state = made(**fast)
  state, _ = run(parts, step, state, 60)
  z = np.random.default_rng(5).normal(size=(64, parts.gan.latent))
  draw = jax.jit(lambda own, z: parts.gan.generator.apply(own, z, None)[0])
  images = draw(state["ema"]["generator"], z.astype(np.float32))
  rows = np.asarray(images).mean((0, 2, 3))
  assert rows[2:6].mean() - rows[[0, 1, 6, 7]].mean() > 0.15


def test_what_cannot_be_is_refused():
  gan = tiny_gan.create()

  def refused(**changes):
    gan_program.parts(gan, ADVERSARIAL | changes, TRAIN)

  with pytest.raises(ValueError, match="updates=0 must be"):
    refused(updates=0)
  with pytest.raises(ValueError, match=r"penalties\.r2: choose of r1"):
    refused(penalties={"r2": {"weight": 1.0, "every": 1}})
  with pytest.raises(ValueError, match="r1 has the keys every, k, weight"):
    refused(penalties={"r1": {"weight": 1.0, "every": 1, "k": 2}})
  with pytest.raises(ValueError, match="every=0: expected"):
    refused(penalties={"r1": {"weight": 1.0, "every": 0}})
  with pytest.raises(ValueError, match=r"share=1.0 must lie in \(0, 1\)"):
    refused(negatives={"name": "jigsaw", "share": 1.0})
  with pytest.raises(ValueError, match="adversarial has the keys"):
    refused(more=1)
