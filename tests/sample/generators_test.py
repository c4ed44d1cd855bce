# SPDX-License-Identifier: Apache-2.0
"""Banks from functions and denoisers in Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffmem
from diffmem import arrays, denoiser, keys
from diffmem.denoiser import Denoiser
from diffmem.diffusion import schedules
from diffmem.sample import generators

KEY = keys.stream(keys.root(3), "sample")
PARAMS = {"scale": np.float32(0.5)}


def generate(params, ids, key):
  draw = jax.vmap(lambda k: jax.random.uniform(k, (2, 3, 1), minval=-1.0))
  return draw(keys.per_id(key, ids)) * params["scale"]


def bring(root, generate=generate, **options):
  options = {"params": PARAMS, "seed": 3, "progress": False} | options
  generators.run(root, generate, **options)
  return diffmem.open_bank(root)


def test_a_function_with_prompts(tmp_path):
  bank = bring(tmp_path, prompts=["", "<b>", "c"], per_prompt=5, batch=4)
  x = generate(PARAMS, np.arange(15), KEY)
  expected = np.round((np.asarray(x) + 1) * 127.5).astype(np.uint8)
  np.testing.assert_array_equal(bank[:], expected)
  assert bank.prompts == ("", "<b>", "c")
  np.testing.assert_array_equal(bank.prompt_ids, np.repeat([0, 1, 2], 5))
  assert (bank.meta["generated"], bank.meta["shape"]) == (15, [2, 3, 1])


def test_one_that_jax_cannot_trace(tmp_path):
  blocks = []

  def traced_never(params, ids, key):
    blocks.append(np.asarray(ids).tolist())
    return np.asarray(ids, np.float32)[:, None, None, None] / 8 - np.ones(
      (1, 2, 2, 3), np.float32
    )

  bank = bring(tmp_path, traced_never, n=6, batch=4, backend="host")
  assert blocks == [[0], [0, 1, 2, 3], [4, 5, 6, 7]]
  assert bank.prompts is None
  levels = np.round(np.arange(6) * 127.5 / 8).astype(np.uint8)
  np.testing.assert_array_equal(bank[:][:, 0, 0, 0], levels)


def test_what_is_there_is_kept_and_only_of_the_same(tmp_path, monkeypatch):
  whole = bring(tmp_path / "calm", n=10, batch=4)[:]
  root = tmp_path / "work"
  real, calls = generators.bank.store.Store.write, []

  def stopped(self, number, values):
    calls.append(number)
    if len(calls) == 2:
      raise KeyboardInterrupt
    real(self, number, values)

  with monkeypatch.context() as patch:
    patch.setattr(generators.bank.store.Store, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
      bring(root, n=10, batch=4)
  np.testing.assert_array_equal(bring(root, n=10, batch=4)[:], whole)
  for change in (
    dict(params={"scale": np.float32(0.6)}),
    dict(seed=4),
    dict(name="another"),
    dict(batch=5),
  ):
    with pytest.raises(ValueError, match="was made with"):
      bring(root, **(dict(n=10, batch=4) | change))


@pytest.mark.parametrize(
  ("options", "message"),
  [
    (dict(), "give either n, or prompts and per_prompt"),
    (dict(n=4, prompts=["a"], per_prompt=1), "give either n, or prompts"),
    (dict(prompts=["a"]), "give either n, or prompts"),
    (dict(n=0), "n=0 and batch=512 must be at least 1"),
    (dict(prompts=["a", "a"], per_prompt=1), "must be distinct, 'a' is not"),
    (dict(n=4, generate=lambda p, i, k: jnp.zeros((len(i), 2, 2, 3), int)),
     "the generator gives int32: expected floats"),
    (dict(n=4, generate=lambda p, i, k: jnp.zeros((3, 2, 2, 3))),
     "gives [3, 2, 2, 3] for 4 ids"),
    (dict(n=4, generate=lambda p, i, k: jnp.zeros((len(i), 2, 2, 2))),
     "expected [4 h w c], c = 1 or 3"),
  ],
)  # fmt: skip
def test_wrong_arguments(tmp_path, options, message):
  with pytest.raises(ValueError) as error:
    bring(tmp_path / "work", **options)
  assert message in str(error.value)
  assert not (tmp_path / "work").exists()


def test_denoisers_traced_or_not_give_the_same(tmp_path):
  schedule = schedules.linear(steps=5)
  points = np.linspace(-1, 1, 5 * 6, dtype=np.float32).reshape(5, 2, 3, 1)
  oracle = denoiser.finite_set(points, schedule)

  def eps(x, t, cond):
    assert not isinstance(x, jax.core.Tracer)
    return np.asarray(oracle.predict(oracle.params, x, t, cond)[0])

  plain = Denoiser(eps, schedule, (2, 3, 1), traceable=False)
  found = {}
  for name, model in (("traced", oracle), ("plain", plain)):
    generators.run_denoiser(
      tmp_path / name,
      model,
      stepper="ddpm_fixed_small",
      steps=5,
      prompts=["a", "b"],
      per_prompt=3,
      batch=4,
      progress=False,
    )
    found[name] = diffmem.open_bank(tmp_path / name)
  assert found["plain"].prompt_ids.tolist() == [0] * 3 + [1] * 3
  pixels = np.asarray(arrays.to_uint8(jnp.asarray(points))).reshape(5, -1)
  known = {tuple(row) for row in pixels}
  assert {tuple(row) for row in found["plain"][:].reshape(6, -1)} <= known
  np.testing.assert_array_equal(found["traced"][:], found["plain"][:])


def test_conditions_belong_to_prompts(tmp_path):
  """A denoiser that draws the grey level of its condition."""
  schedule = schedules.linear(steps=10)
  levels = np.array([-1.0, 0.2, 1.0], np.float32)
  alpha_bar = jnp.asarray(schedule.alpha_bar, jnp.float32)

  def eps(x, t, cond):
    ab = alpha_bar[t][:, None, None, None]
    target = cond[:, None, None, None]
    return (x - jnp.sqrt(ab) * target) / jnp.sqrt(1 - ab)

  model = Denoiser(eps, schedule, (2, 2, 1))
  generators.run_denoiser(
    tmp_path,
    model,
    conditions=levels,
    prompts=["low", "middle", "high"],
    per_prompt=3,
    batch=4,
    steps=10,
    progress=False,
  )
  bank = diffmem.open_bank(tmp_path)
  expected = np.round((np.repeat(levels, 3) + 1) * 127.5)
  assert np.abs(bank[:].mean((1, 2, 3)) - expected).max() <= 1
  with pytest.raises(ValueError, match="3 conditions need as many prompts"):
    generators.run_denoiser(
      tmp_path / "x", model, conditions=levels, n=9, steps=10
    )
