# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import models
from diffmem.models import classifier

SHAPE = (8, 8, 2)
KNOBS = {
  "resnet": dict(width=8, multipliers=(1, 2), blocks=(1, 1), groups=4),
  "mlp": dict(width=16, blocks=2),
}


def made(name, timed, classes=5):
  return classifier.create(
    name, shape=SHAPE, classes=classes, timed=timed, **KNOBS[name]
  )


def batch(b=3):
  x = np.random.default_rng(0).normal(size=(b, *SHAPE)).astype(np.float32)
  return x, np.arange(b, dtype=np.int32) * 300


@pytest.mark.parametrize("name", classifier.CLASSIFIERS)
def test_a_timed_one_starts_as_the_plain_one_at_every_t(name):
  plain, timed = made(name, False), made(name, True)
  weights = plain.init(jax.random.key(1))
  fresh = timed.init(jax.random.key(2))
  student = classifier.transfer(weights, fresh)
  assert jax.tree.structure(student) == jax.tree.structure(fresh)
  x, t = batch()
  expected = jax.jit(plain.apply)(weights, x, t)
  assert expected.shape == (3, 5)
  for shift in (0, 99):
    logits = jax.jit(timed.apply)(student, x, t + shift)
    np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-5)
  other = jax.jit(timed.apply)(fresh, x, t)
  assert not np.allclose(other, expected, atol=1e-3)


@pytest.mark.parametrize("name", classifier.CLASSIFIERS)
def test_time_matters_once_its_modules_are_trained(name):
  timed = made(name, True)
  weights = timed.init(jax.random.key(0))
  rng = np.random.default_rng(3)
  weights = jax.tree.map(lambda w: w + rng.normal(size=w.shape) / 3, weights)
  x, t = batch()
  first = jax.jit(timed.apply)(weights, x, t)
  second = jax.jit(timed.apply)(weights, x, t + 50)
  assert float(np.abs(first - second).max()) > 1e-3
  plain = made(name, False)
  weights = plain.init(jax.random.key(0))
  np.testing.assert_array_equal(
    jax.jit(plain.apply)(weights, x, t), jax.jit(plain.apply)(weights, x, t + 9)
  )


def test_a_block_has_one_time_module_after_its_first_normalisation():
  """Film acts on what norm1 gives: with zero kernels, b alone reaches conv2."""
  draws = classifier.layers.Draws(jnp.ones(10_000))
  block = classifier.Block(2, 4, 1, 1, 1.0, draws=draws)
  names = {"conv1", "norm1", "time", "conv2", "norm2", "skip"}
  assert {k for k in vars(block) if not k.startswith("_")} >= names
  block.conv1.kernel[...] = 0 * block.conv1.kernel[...]
  block.time.second.bias[...] = jnp.array([0.0] * 4 + [1.0, 2.0, 3.0, 4.0])
  seen = []
  block.conv2 = lambda y: seen.append(y) or y
  block(jnp.ones((1, 2, 2, 2)), jnp.zeros(1, jnp.int32))
  shift = jnp.array([1.0, 2.0, 3.0, 4.0])
  expected = jnp.broadcast_to(
    jax.nn.silu(shift)[None, None, None], (1, 2, 2, 4)
  )
  np.testing.assert_allclose(seen[0], expected, rtol=1e-5)


def test_an_image_does_not_see_the_rest_of_its_batch():
  timed = made("resnet", True)
  weights = timed.init(jax.random.key(0))
  x, t = batch()
  apply = jax.jit(timed.apply)
  alone = apply(weights, x[:1], t[:1])
  together = apply(weights, x, t)
  np.testing.assert_allclose(alone[0], together[0], rtol=1e-4, atol=1e-5)


def test_resnet_34_has_its_published_size():
  """21,797,672 with 1,000 classes; here a 3 x 3 stem for 7 x 7, and biases."""
  found = classifier.create(
    "resnet", shape=(32, 32, 3), classes=1000, timed=False
  )
  shapes = jax.eval_shape(found.init, jax.random.key(0))
  biases = 64 + 3 * 2 * 64 + 4 * 2 * 128 + 6 * 2 * 256 + 3 * 2 * 512
  biases += 128 + 256 + 512  # of the skips
  norms = 2 * (128 + 256 + 512)  # which the skips have there
  stem = 3 * 64 * (49 - 9)
  assert models.count(shapes) == 21_797_672 - stem - norms + biases


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(name="vit"), "expected one of resnet, mlp"),
    (dict(classes=1), "needs 2 or more"),
    (dict(depth=3), "no knob 'depth'"),
    (dict(blocks=(1,)), "as many of both"),
    (dict(width=3), "width=3"),
  ],
)
def test_errors(change, message):
  options = dict(name="resnet", shape=SHAPE, classes=3, timed=True)
  with pytest.raises(ValueError, match=message):
    classifier.create(**{**options, **change})
