# SPDX-License-Identifier: Apache-2.0
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import models
from diffmem.models import gan, gan_presets

TINY = {
  "stylegan2": dict(
    style=6, mapping=1, channel_base=32, channel_max=4, label_mapping=1,
    architecture="resnet", truncation=0.5,
  ),
  "biggan": dict(width=4, discriminator_width=4, shared=3, hierarchical=True),
  "resnet": dict(width=4, discriminator_width=4),
}  # fmt: skip


def count(network):
  variables = jax.eval_shape(network.init, jax.random.key(0))
  leaves = jax.tree.leaves(variables)
  assert all(leaf.dtype == jnp.float32 for leaf in leaves)
  return models.count(variables["params"])


def conv(i, o, size=3):
  return size * size * i * o + o


def dense(i, o):
  return i * o + o


def test_stylegan_ada_cifar10_has_the_published_size():
  styled = 9 * 512 * 512 + 512 + 1 + dense(512, 512)
  image = 512 * 3 + 3 + dense(512, 512)
  generator = 2 * dense(512, 512) + 16 * 512 + 7 * styled + 4 * image
  discriminator = conv(3, 512, 1) + 6 * conv(512, 512) + conv(513, 512)
  discriminator += dense(16 * 512, 512) + dense(512, 1)
  assert (generator, discriminator) == (19_947_539, 20_720_641)
  model = gan.create(shape=(32, 32, 3), **gan_presets.stylegan_ada_cifar10())
  assert count(model.generator) == generator
  assert count(model.discriminator) == discriminator


def residual(c, classes, outputs=3, latent=128):
  """Parameters of both residual networks at 32x32, by hand."""
  up = 2 * conv(c, c) + conv(c, c, 1) + 4 * c * (classes or 1)
  generator = dense(latent, 16 * c) + 3 * up + 2 * c + conv(c, outputs)
  down = conv(outputs, c) + conv(c, c) + conv(outputs, c, 1)
  down += 2 * conv(c, c) + conv(c, c, 1) + 4 * conv(c, c)
  return generator, down + dense(c, 1) + c * (classes or 0)


@pytest.mark.parametrize(
  ("preset", "c", "classes", "sizes"),
  [
    ("diffbiggan_cifar10", 256, 10, (4_304_387, 4_207_361)),
    ("nda_cifar10", 256, None, (4_276_739, 4_204_801)),
    ("wgan_alp_cifar10", 128, None, (1_204_483, 1_053_825)),
  ],
)
def test_residual_presets_have_the_published_sizes(preset, c, classes, sizes):
  assert residual(c, classes) == sizes
  knobs = getattr(gan_presets, preset)()
  model = gan.create(shape=(32, 32, 3), num_classes=classes, **knobs)
  assert (count(model.generator), count(model.discriminator)) == sizes


def test_e2gan_cifar10_has_the_published_size():
  cell = 2 * (conv(256, 256) + 2 * 256) + conv(256, 256, 1)
  deconv = 4 * 256 * 256 + 256
  generator = dense(128, 16 * 256) + 3 * cell + 2 * deconv
  generator += conv(256, 256, 1) + 2 * 256 + conv(256, 3)
  assert generator == 4_867_331
  model = gan.create(shape=(32, 32, 3), **gan_presets.e2gan_cifar10())
  assert count(model.generator) == generator
  # That of the residual network, without the bias of the logit.
  assert count(model.discriminator) == residual(128, None)[1] - 1 == 1_053_824


@pytest.mark.parametrize("size", [8, 28])
def test_small_presets_make_images_of_the_shape_asked_for(size):
  for name in ("stylegan_ada", "diffbiggan", "e2gan", "nda", "wgan_alp"):
    knobs = getattr(gan_presets, f"{name}_small")()
    published = getattr(gan_presets, f"{name}_cifar10")()
    assert knobs.keys() == published.keys()
    model = gan.create(shape=(size, size, 1), **knobs)
    assert count(model.generator) < 200_000
    assert count(model.discriminator) < 200_000
    variables = jax.eval_shape(model.generator.init, jax.random.key(0))
    z = jax.ShapeDtypeStruct((3, model.latent), jnp.float32)
    made, state = jax.eval_shape(
      functools.partial(model.generator.apply, cond=None, train=True),
      variables,
      z,
    )
    assert made.shape == (3, size, size, 1)
    assert jax.tree.structure(state) == jax.tree.structure(variables["state"])


@pytest.fixture(scope="module", params=["stylegan2", "biggan"])
def trained(request):
  """A tiny GAN of 3 classes at 9x8, its variables, and one training step's."""
  knobs = TINY[request.param]
  model = gan.create(
    request.param, shape=(9, 8, 2), num_classes=3, latent=6, **knobs
  )
  nets = model.generator, model.discriminator
  both = [jax.jit(n.init)(jax.random.key(i)) for i, n in enumerate(nets)]
  z = jax.random.normal(jax.random.key(2), (4, 6))
  cond = jnp.array([0, 1, 2, 1])

  def loss(params, states):
    g, d = (
      {"params": p, "state": s} for p, s in zip(params, states, strict=True)
    )
    key = jax.random.key(3)
    made, after = model.generator.apply(g, z, cond, key=key, train=True)
    logits, last = model.discriminator.apply(d, made, cond, train=True)
    return logits.sum(), (made, logits, [after, last])

  step = jax.jit(jax.value_and_grad(loss, has_aux=True))
  (_, out), gradients = step(*([v[part] for v in both]
                               for part in ("params", "state")))  # fmt: skip
  return model, both, z, cond, out, gradients


def test_a_training_step_has_finite_gradients_and_a_new_state(trained):
  _, both, _, _, (made, logits, states), gradients = trained
  assert (made.shape, made.dtype) == ((4, 9, 8, 2), jnp.float32)
  assert (logits.shape, logits.dtype) == ((4,), jnp.float32)
  for gradient, variables in zip(gradients, both, strict=True):
    leaves = jax.tree.leaves(gradient)
    assert all(bool(jnp.isfinite(leaf).all()) for leaf in leaves)
    moved = [bool(jnp.any(leaf != 0)) for leaf in leaves]
    assert sum(moved) > 0.7 * len(moved)
    assert jax.tree.structure(gradient) == jax.tree.structure(
      variables["params"]
    )
  for state, variables in zip(states, both, strict=True):
    before = jax.tree.leaves(variables["state"])
    after = jax.tree.leaves(state)
    assert [a.shape for a in after] == [b.shape for b in before]
    changed = [
      bool(jnp.any(a != b)) for a, b in zip(after, before, strict=True)
    ]
    assert any(changed) or not before


def test_evaluation_sees_each_sample_alone_and_leaves_the_state(trained):
  model, (g, d), z, cond, _, _ = trained

  @jax.jit
  def evaluate(z, cond):
    made, state = model.generator.apply(g, z, cond)
    logits, last = model.discriminator.apply(d, made, cond)
    return made, logits, state, last

  made, logits, *states = evaluate(z, cond)
  for state, variables in zip(states, (g, d), strict=True):
    jax.tree.map(np.testing.assert_array_equal, state, variables["state"])
  assert float(jnp.abs(made).max()) <= 1.0
  other, others, *_ = evaluate(z.at[1:].set(0.3), cond.at[1:].set(0))
  np.testing.assert_allclose(made[0], other[0], rtol=1e-6, atol=1e-6)
  np.testing.assert_allclose(logits[0], others[0], rtol=1e-5, atol=1e-6)
  changed, _, *_ = evaluate(z, cond.at[0].set(2))
  assert float(jnp.abs(made[0] - changed[0]).max()) > 1e-6
  assert float(jnp.abs(made[1] - other[1]).max()) > 1e-4


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(family="bigan"), "unknown family of GANs 'bigan'.*mean 'biggan'"),
    (dict(widht=8), "unknown knob of biggan 'widht'.*did you mean 'width'"),
    (dict(shape=(3, 8, 1)), "3x8; expected sides of 4"),
    (dict(shape=(8, 8, 0)), r"shape=\(8, 8, 0\)"),
    (dict(latent=0), "latent=0; expected 1"),
    (dict(num_classes=0), "num_classes=0; expected 1 or more, or None"),
    (dict(width=0), "width=0; expected 1 channel"),
    (dict(hierarchical=True, latent=7), "latent=7 .* 2 chunks"),
    (dict(hierarchical=True, num_classes=3), "shared=None; expected the len"),
    (dict(family="e2gan", cells=("post batch",)), "unknown up of the cell 'po"),
    (dict(family="e2gan", cells=("post batch nearest skip0",)), "'skip0'"),
    (dict(family="stylegan2", architecture="skip"), "'skip'; .* resnet, orig"),
    (dict(family="stylegan2", channel_base=4), "channel_base=4.* no channel"),
    (dict(family="stylegan2", mapping=0), "mapping=0; expected 1 layer"),
    (dict(family="stylegan2", group=0), "group=0; expected 1 sample"),
  ],
)
def test_what_does_not_fit_is_refused_in_one_line(change, message):
  knobs = dict(family="biggan", shape=(8, 8, 1), latent=8)
  with pytest.raises(ValueError, match=message) as error:
    gan.create(**knobs | change)
  assert "\n" not in str(error.value)


def test_wrong_inputs_are_refused():
  model = gan.create("resnet", shape=(8, 8, 1), num_classes=3, **TINY["resnet"])
  with pytest.raises(ValueError, match="3 classes: pass cond"):
    model.generator.apply({}, jnp.zeros((2, 128)), None)
  with pytest.raises(ValueError, match=r"shape \(8, 8, 3\) given .*8, 8, 1"):
    model.discriminator.apply({}, jnp.zeros((2, 8, 8, 3)), jnp.zeros(2, int))
  plain = gan.create("resnet", shape=(8, 8, 1), **TINY["resnet"])
  with pytest.raises(ValueError, match="no classes: pass cond=None"):
    plain.generator.apply({}, jnp.zeros((2, 128)), jnp.zeros(2, int))
