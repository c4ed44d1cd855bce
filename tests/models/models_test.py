# SPDX-License-Identifier: Apache-2.0
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import models
from diffmem.models import presets

SHAPE = (4, 4, 2)
TINY = dict(
  width=8, multipliers=(1, 2), blocks=1, attention=(2,), heads=2, groups=4
)


def filled(model):
  """Parameters with no zeros, so that every branch counts."""
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  leaves, structure = jax.tree.flatten(shapes)
  rng = np.random.default_rng(0)
  return structure.unflatten(
    [
      jnp.asarray(0.3 * rng.standard_normal(leaf.shape), jnp.float32)
      for leaf in leaves
    ]
  )


def inputs(b=3):
  rng = np.random.default_rng(1)
  x = jnp.asarray(rng.uniform(-1, 1, (b, *SHAPE)), jnp.float32)
  return x, jnp.arange(b, dtype=jnp.int32) * 100


@pytest.fixture(scope="module")
def unet():
  model = models.create(
    "unet", shape=SHAPE, num_classes=3, learned_variance=True, dropout=0.5,
    scale_shift=True, **TINY,
  )  # fmt: skip
  return model, filled(model), jax.jit(model.apply)


@pytest.fixture(scope="module")
def mlp():
  model = models.create(
    "mlp", shape=SHAPE, num_classes=3, learned_variance=True, dropout=0.5,
    width=16, blocks=2,
  )  # fmt: skip
  return model, filled(model), jax.jit(model.apply)


@pytest.fixture(params=["unet", "mlp"])
def network(request):
  return request.getfixturevalue(request.param)


# Parameters of the published networks, counted by hand from the papers.


def conv(i, o, size=3):
  return size * size * i * o + o


def block(i, o, e, maps):
  norms = 2 * i + 2 * o
  skip = conv(i, o, 1) if i != o else 0
  return norms + conv(i, o) + conv(e, maps * o, 1) + conv(o, o) + skip


def attention(c):
  return 2 * c + 4 * conv(c, c, 1)


def test_ddpm_cifar10_is_the_published_network():
  e = 512
  want = conv(128, e, 1) + conv(e, e, 1) + conv(3, 128)
  want += 2 * block(128, 128, e, 1) + conv(128, 128)  # 32x32
  want += block(128, 256, e, 1) + block(256, 256, e, 1)  # 16x16
  want += 2 * attention(256) + conv(256, 256)
  want += 2 * block(256, 256, e, 1) + conv(256, 256)  # 8x8
  want += 2 * block(256, 256, e, 1)  # 4x4
  want += 2 * block(256, 256, e, 1) + attention(256)  # middle
  want += 3 * block(512, 256, e, 1) + conv(256, 256)  # 4x4
  want += 3 * block(512, 256, e, 1) + conv(256, 256)  # 8x8
  want += 2 * block(512, 256, e, 1) + block(384, 256, e, 1)  # 16x16
  want += 3 * attention(256) + conv(256, 256)
  want += block(384, 128, e, 1) + 2 * block(256, 128, e, 1)  # 32x32
  want += 2 * 128 + conv(128, 3)
  assert want == 35_746_307
  model = models.create(shape=(32, 32, 3), **presets.ddpm_cifar10())
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  assert models.count(shapes) == want


def test_iddpm_cifar10_is_the_published_network():
  e = 512
  want = conv(128, e, 1) + conv(e, e, 1) + conv(3, 128)
  want += 3 * block(128, 128, e, 2) + conv(128, 128)  # 32x32
  want += block(128, 256, e, 2) + 2 * block(256, 256, e, 2)  # 16x16
  want += 3 * attention(256) + conv(256, 256)
  want += 3 * block(256, 256, e, 2) + 3 * attention(256)  # 8x8
  want += conv(256, 256)
  want += 3 * block(256, 256, e, 2)  # 4x4
  want += 2 * block(256, 256, e, 2) + attention(256)  # middle
  want += 4 * block(512, 256, e, 2) + conv(256, 256)  # 4x4
  want += 4 * block(512, 256, e, 2) + 4 * attention(256)  # 8x8
  want += conv(256, 256)
  want += 3 * block(512, 256, e, 2) + block(384, 256, e, 2)  # 16x16
  want += 4 * attention(256) + conv(256, 256)
  want += block(384, 128, e, 2) + 3 * block(256, 128, e, 2)  # 32x32
  want += 2 * 128 + conv(128, 6)
  assert want == 52_546_438
  model = models.create(shape=(32, 32, 3), **presets.iddpm_cifar10())
  params = jax.eval_shape(model.init, jax.random.key(0))
  assert models.count(params) == want
  x = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
  t = jax.ShapeDtypeStruct((2,), jnp.int32)
  key = jax.eval_shape(lambda: jax.random.key(0))
  y = jax.eval_shape(lambda p, x, t, k: model.apply(p, x, t, None, key=k),
                     params, x, t, key)  # fmt: skip
  assert y.shape == (2, 32, 32, 6)
  assert y.dtype == jnp.float32


def test_the_secmi_network_differs_in_conventions_alone():
  ours, theirs = presets.ddpm_cifar10(), presets.ddpm_cifar10_secmi()
  assert {k for k in ours if ours[k] != theirs[k]} == {"conventions"}
  model = models.create("unet", shape=SHAPE, **TINY)
  other = models.create("unet", shape=SHAPE, conventions="torch", **TINY)
  x, t = inputs()
  params = filled(model)
  y, z = (jax.jit(m.apply)(params, x, t, None) for m in (model, other))
  assert float(jnp.abs(y - z).max()) > 1e-3


def test_attention_stands_where_it_is_asked_for():
  def count(**over):
    knobs = presets.ddpm_cifar10(**over)
    model = models.create(shape=(32, 32, 3), **knobs)
    return models.count(jax.eval_shape(model.init, jax.random.key(0)))

  none = count(attention=())
  assert count() - none == 5 * attention(256)
  assert count(attention=(32,)) - none == 5 * attention(128)
  assert count(middle="plain") == count() - attention(256)


def test_init_starts_at_zero_output_and_depends_on_the_key():
  for name, knobs in (("unet", TINY), ("mlp", dict(width=8))):
    model = models.create(name, shape=SHAPE, **knobs)
    a, b = (jax.jit(model.init)(jax.random.key(i)) for i in (0, 1))
    assert all(leaf.dtype == jnp.float32 for leaf in jax.tree.leaves(a))
    assert jnp.abs(a["stem"]["kernel"] - b["stem"]["kernel"]).max() > 0.01
    assert not a["out"]["kernel"].any()
    assert hash(model) == hash(model)


def test_output_has_the_shape_and_dtype_promised(network):
  model, params, apply = network
  x, t = inputs()
  y = apply(params, x, t, jnp.array([0, 1, 2]))
  assert y.shape == (3, 4, 4, 4)
  assert y.dtype == jnp.float32
  assert model.outputs == 4
  assert bool(jnp.isfinite(y).all())


def test_class_and_time_change_the_output(network):
  _, params, apply = network
  x, t = inputs()
  outputs = [apply(params, x, t, jnp.full(3, c)) for c in (0, 1, 3)]
  outputs.append(apply(params, x, t + 50, jnp.full(3, 0)))
  for i, one in enumerate(outputs):
    for other in outputs[:i]:
      assert float(jnp.abs(one - other).max()) > 1e-3


def test_a_sample_does_not_see_the_others(network):
  _, params, apply = network
  x, t = inputs()
  cond = jnp.array([0, 1, 2])
  y = apply(params, x, t, cond)
  changed = apply(params, x.at[1:].set(0.5), t.at[1:].set(7), cond)
  np.testing.assert_array_equal(y[0], changed[0])
  assert float(jnp.abs(y[1] - changed[1]).max()) > 1e-3


def test_dropout_needs_a_key(network):
  _, params, apply = network
  x, t = inputs()
  cond = jnp.array([0, 1, 2])
  still = apply(params, x, t, cond)
  np.testing.assert_array_equal(still, apply(params, x, t, cond))
  draws = [apply(params, x, t, cond, key=jax.random.key(i)) for i in (0, 0, 1)]
  np.testing.assert_array_equal(draws[0], draws[1])
  assert float(jnp.abs(draws[0] - draws[2]).max()) > 1e-3
  assert float(jnp.abs(draws[0] - still).max()) > 1e-3


@pytest.mark.parametrize("name", ["unet", "mlp"])
def test_bfloat16_is_near_float32(name, request):
  _model, params, apply = request.getfixturevalue(name)
  knobs = dict(width=16, blocks=2) if name == "mlp" else TINY | dict(
    scale_shift=True
  )  # fmt: skip
  low = models.create(
    name, shape=SHAPE, num_classes=3, learned_variance=True, dtype="bfloat16",
    **knobs,
  )  # fmt: skip
  x, t = inputs()
  cond = jnp.array([0, 1, 2])
  y, want = jax.jit(low.apply)(params, x, t, cond), apply(params, x, t, cond)
  assert y.dtype == jnp.float32
  error = jnp.sqrt(jnp.mean((y - want) ** 2) / jnp.mean(want**2))
  assert 1e-5 < float(error) < 0.05


def test_a_model_is_a_static_closure_under_grad_and_vmap(mlp):
  model, params, _apply = mlp
  x, t = inputs()
  cond = jnp.array([0, 1, 2])

  def one(x, t, c):
    y = model.apply(params, x[None], t[None], c[None])
    return jnp.sum(y**2)

  each = jax.jit(jax.vmap(jax.grad(one)))(x, t, cond)
  whole = jax.jit(
    jax.grad(lambda x: jnp.sum(model.apply(params, x, t, cond) ** 2))
  )(x)
  np.testing.assert_allclose(each, whole, rtol=2e-4, atol=1e-4)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(name="unett"), "unknown model 'unett'.*did you mean 'unet'"),
    (dict(widht=8), "unknown knob of unet 'widht'.*did you mean 'width'"),
    (dict(dtype="float16"), "unknown dtype 'float16'.*bfloat16"),
    (dict(shape=(6, 8, 1)), "6x8 .* 2 times .*multiples of 4"),
    (dict(attention=(5,)), r"attention at height 5.*\[8, 4, 2\]"),
    (dict(heads=3, attention=(4,)), "heads=3 .* 8 channels"),
    (dict(middle="deep"), "middle='deep'.*'dense'"),
    (dict(dropout=1.0), r"dropout=1.0.*\[0, 1\)"),
    (dict(width=7), "width=7.*even"),
    (dict(blocks=0), "blocks=0"),
    (dict(multipliers=()), r"multipliers=\(\).*at least one"),
    (dict(groups=0), "groups=0.*1 or more"),
    (dict(conventions="tf"), "conventions='tf'; expected one of ho, torch"),
  ],
)
def test_what_does_not_fit_is_refused_in_one_line(change, message):
  knobs = dict(
    name="unet", shape=(8, 8, 1), width=8, multipliers=(1, 1, 1), attention=()
  )
  with pytest.raises(ValueError, match=message) as error:
    models.create(**knobs | change)
  assert "\n" not in str(error.value)


def test_wrong_inputs_are_refused(unet):
  model, params, _ = unet
  x, t = inputs()
  with pytest.raises(ValueError, match="3 classes: pass cond"):
    model.apply(params, x, t, None)
  with pytest.raises(ValueError, match=r"\(4, 4, 1\) given to a model of"):
    model.apply(params, x[..., :1], t, jnp.zeros(3, jnp.int32))
  plain = models.create("mlp", shape=SHAPE)
  with pytest.raises(ValueError, match="has no conditions"):
    plain.apply({}, x, t, jnp.zeros(3, jnp.int32))
