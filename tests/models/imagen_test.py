# SPDX-License-Identifier: Apache-2.0
"""The efficient U-Net: sizes, what captions and low images do, refusals."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import models
from diffmem.models import imagen, layers, presets, text, unet

TEXT = (3, 5)
TINY = dict(
  text=TEXT, width=8, multipliers=(1, 2), blocks=(1, 2), context=4,
  head_channels=4, groups=4,
)  # fmt: skip
BASE = dict(shape=(4, 4, 2), attention=(2,), cross=(4, 2), **TINY)
UPSAMPLER = dict(
  shape=(8, 8, 2), low=4, halve_first=True, attention=(2,), cross=(4, 2),
  skips="block", middle=False, dropout=0.5, **TINY,
)  # fmt: skip


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


def inputs(model, b=3):
  rng = np.random.default_rng(1)

  def draw(*shape):
    return jnp.asarray(rng.uniform(-1, 1, (b, *shape)), jnp.float32)

  mask = jnp.array([[True, True, False], [True] * 3, [False] * 3])
  cond = {"tokens": draw(*TEXT), "mask": mask}
  if model.low is not None:
    cond |= {"low": draw(*model.low), "level": jnp.array([5, 90, 7])}
  return draw(*model.shape), jnp.arange(b, dtype=jnp.int32) * 100, cond


@pytest.fixture(scope="module")
def base():
  model = models.create("imagen", **BASE)
  return model, filled(model), jax.jit(model.apply)


@pytest.fixture(scope="module")
def upsampler():
  model = models.create("imagen", **UPSAMPLER)
  return model, filled(model), jax.jit(model.apply)


@pytest.fixture(params=["base", "upsampler"])
def network(request):
  return request.getfixturevalue(request.param)


def far(a, b):
  return float(jnp.abs(a - b).max()) > 1e-3


@pytest.mark.parametrize(
  ("preset", "side", "parameters"),
  [
    (presets.imagen_base, 64, 1_944_341_507),
    (presets.imagen_256, 256, 566_930_435),
    (presets.imagen_1024, 1024, 499_723_267),
  ],
)
def test_presets_have_the_sizes_that_are_stated(preset, side, parameters):
  model = models.create(shape=(side, side, 3), **preset())
  params = jax.eval_shape(model.init, jax.random.key(0))
  assert models.count(params) == parameters
  assert f"{parameters:,}" in preset.__doc__
  shape = jax.ShapeDtypeStruct
  cond = {
    "tokens": shape((2, 128, 4096), jnp.float32),
    "mask": shape((2, 128), bool),
  }
  if model.low is not None:
    assert model.low == (side // 4, side // 4, 3)
    cond |= {
      "low": shape((2, *model.low), jnp.float32),
      "level": shape((2,), jnp.int32),
    }
  x = shape((2, side, side, 3), jnp.float32)
  t = shape((2,), jnp.int32)
  y = jax.eval_shape(model.apply, params, x, t, cond)
  assert (y.shape, y.dtype) == ((2, side, side, 3), jnp.float32)


@pytest.mark.parametrize("low", [None, 8])
@pytest.mark.parametrize("captions", [None, (4, 6)])
def test_the_small_preset_is_base_or_upsampler(low, captions):
  side = 16 if low else 8
  knobs = presets.imagen_small(text=captions, low=low)
  model = models.create(shape=(side, side, 1), **knobs)
  assert (model.low, model.text) == ((8, 8, 1) if low else None, captions)
  assert models.count(jax.eval_shape(model.init, jax.random.key(0))) < 1_000_000


def test_a_block_is_that_of_the_unet_over_sqrt_2():
  knobs = dict(
    embedding=4, dropout=0.0, scale_shift=True, groups=4,
    conventions=layers.HO,
  )  # fmt: skip
  values = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, 9999))
  ours, plain = (
    kind(8, 8, draws=layers.Draws(values.astype(jnp.float32)), **knobs)
    for kind in (imagen.Block, unet.Block)
  )
  x = values[:128].reshape(2, 4, 2, 8).astype(jnp.float32)
  e = values[:8].reshape(2, 4).astype(jnp.float32)
  np.testing.assert_allclose(
    ours(x, e, None) * np.sqrt(2), plain(x, e, None), rtol=1e-5
  )


def test_attention_to_a_caption_is_the_formula():
  rng = np.random.default_rng(0)
  draws = layers.Draws(jnp.asarray(rng.uniform(-1, 1, 999), jnp.float32))
  layer = text.CrossAttention(4, 3, heads=2, groups=2, draws=draws)
  layer.out.kernel[...] = jnp.asarray(rng.normal(size=(4, 4)), jnp.float32)
  x = jnp.asarray(rng.normal(size=(2, 1, 2, 4)), jnp.float32)
  words = jnp.asarray(rng.normal(size=(2, 3, 3)), jnp.float32)
  mask = np.array([[True, False, True], [False] * 3])
  y = layer(x, words, jnp.asarray(mask))
  pixels = np.asarray(layer.norm(x)).reshape(2, 2, 4)
  q = pixels @ np.asarray(layer.q.kernel[...])
  pairs = np.asarray(words) @ np.asarray(layer.kv.kernel[...])
  null = np.broadcast_to(layer.null[...], (2, 1, 8))
  k, v = np.split(np.concatenate([null, pairs], axis=1), 2, axis=-1)
  want = np.zeros((2, 2, 4))
  for b, pixel, head in np.ndindex(2, 2, 2):
    seen, part = [True, *mask[b]], slice(2 * head, 2 * head + 2)
    score = np.exp(k[b, seen][:, part] @ q[b, pixel, part] / np.sqrt(2))
    want[b, pixel, part] = score @ v[b, seen][:, part] / score.sum()
  want = want @ np.asarray(layer.out.kernel[...])
  np.testing.assert_allclose(y - x, want.reshape(x.shape), atol=1e-5)


def test_everything_that_conditions_changes_the_output(network):
  model, params, apply = network
  x, t, cond = inputs(model)
  y = apply(params, x, t, cond)
  assert y.shape == x.shape
  assert bool(jnp.isfinite(y).all())
  assert far(y, apply(params, x, t + 50, cond))
  for name in cond.keys() - {"mask"}:
    changed = apply(params, x, t, cond | {name: cond[name][::-1]})
    assert far(y[0], changed[0]), name
  more = cond | {"mask": jnp.ones((3, 3), bool)}
  assert far(y[0], apply(params, x, t, more)[0])


def test_what_is_masked_is_not_seen(network):
  model, params, apply = network
  x, t, cond = inputs(model)
  garbage = jnp.where(cond["mask"][:, :, None], cond["tokens"], 1e3)
  np.testing.assert_array_equal(
    apply(params, x, t, cond), apply(params, x, t, cond | {"tokens": garbage})
  )
  null = model.null_cond
  assert null["tokens"].shape == TEXT
  assert not null["mask"].any()


def test_a_sample_does_not_see_the_others(network):
  model, params, apply = network
  x, t, cond = inputs(model)
  other = jax.tree.map(lambda a: a.at[1:].set(a[:1]), cond)
  y = apply(params, x, t, cond)
  changed = apply(params, x.at[1:].set(0.5), t.at[1:].set(7), other)
  np.testing.assert_array_equal(y[0], changed[0])
  assert far(y[1], changed[1])


def test_dropout_needs_a_key(upsampler):
  model, params, apply = upsampler
  x, t, cond = inputs(model)
  draws = [apply(params, x, t, cond, key=jax.random.key(i)) for i in (0, 0, 1)]
  np.testing.assert_array_equal(draws[0], draws[1])
  assert far(draws[0], draws[2])


def test_bfloat16_is_near_float32(base):
  model, params, apply = base
  low = models.create("imagen", dtype="bfloat16", **BASE)
  x, t, cond = inputs(model)
  y, want = jax.jit(low.apply)(params, x, t, cond), apply(params, x, t, cond)
  assert y.dtype == jnp.float32
  error = jnp.sqrt(jnp.mean((y - want) ** 2) / jnp.mean(want**2))
  assert 1e-5 < float(error) < 0.05


def test_it_starts_at_zero_and_its_gradient_reaches_every_weight(base):
  model, params, _ = base
  assert not np.any(jax.jit(model.init)(jax.random.key(0))["out"]["kernel"])
  x, t, cond = inputs(model)
  loss = jax.jit(jax.grad(lambda p: jnp.sum(model.apply(p, x, t, cond) ** 2)))
  for path, leaf in jax.tree_util.tree_leaves_with_path(loss(params)):
    assert float(jnp.abs(leaf).max()) > 0, jax.tree_util.keystr(path)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(num_classes=3), "num_classes=3.*captions, not classes"),
    (dict(blocks=(1,)), r"blocks=\(1,\).*one of each for every level"),
    (dict(shape=(6, 6, 1), halve_first=True), "6x6 .* halved 2 times"),
    (dict(attention=(3,)), r"attention at height 3.*\[4, 2\]"),
    (dict(cross=(8,)), r"cross at height 8.*\[4, 2\]"),
    (dict(text=None), r"cross=\(4, 2\), but text=None"),
    (dict(text=(0, 5)), r"text=\(0, 5\): expected \(tokens"),
    (dict(low=3), "low=3: images of 4x4 are no whole multiple"),
    (dict(low=4), "low=4: images of 4x4"),
    (dict(skips="all"), "skips='all'; expected one of block, level"),
    (dict(groups=0), "groups=0"),
    (dict(head_channels=3), "head_channels=3 does not divide"),
    (dict(context=0), "context=0"),
  ],
)
def test_what_does_not_fit_is_refused_in_one_line(change, message):
  with pytest.raises(ValueError, match=message) as error:
    models.create("imagen", **BASE | change)
  assert "\n" not in str(error.value)


def test_wrong_conditions_are_refused(base, upsampler):
  model, params, _ = base
  x, t, cond = inputs(model)
  for wrong in (
    None,
    jnp.zeros(3, jnp.int32),
    {"tokens": cond["tokens"]},
    cond | {"level": t},
    {"tokens": cond["tokens"][:, :2], "mask": cond["mask"][:, :2]},
  ):
    with pytest.raises(ValueError, match="this model takes cond="):
      model.apply(params, x, t, wrong)
  model, params, _ = upsampler
  x, t, _ = inputs(model)
  with pytest.raises(ValueError, match=r"'low': \(3, 4, 4, 2\)"):
    model.apply(params, x, t, cond)
