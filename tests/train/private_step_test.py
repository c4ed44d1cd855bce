# SPDX-License-Identifier: Apache-2.0
"""A step of DP-SGD: a naive twin, the scale of its noise, micro-batches."""

import copy

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import scipy.stats

from diffmem import keys, models, workdir
from diffmem.data import PoissonBatches
from diffmem.diffusion import schedules
from diffmem.train import private_step, run, step
from tests.train.run_test import CONFIG

SHAPE = (4, 4, 1)
IMAGES = np.random.default_rng(3).integers(0, 256, (40, *SHAPE), np.uint8)
LABELS = np.arange(40) % 3
CLIP = 0.8


@pytest.fixture(scope="module")
def network():
  model = models.create(
    "mlp", shape=SHAPE, width=8, blocks=1, num_classes=3, dropout=0.1
  )
  each = step.denoising(
    model,
    schedules.linear(10),
    prediction="eps",
    loss="mse",
    label_dropout=0.5,
  )
  return model, each, jax.jit(private_step.clipped_sum(each, CLIP))


def _parts(microbatch, at=0):
  return PoissonBatches(
    IMAGES, LABELS, np.arange(40), batch=20, microbatch=microbatch, seed=0,
    flip=False,
  ).at(at)  # fmt: skip


def _total(network, parts):
  model, _, add = network
  params = model.init(keys.root(0))
  total = private_step.nothing(params)
  for part in parts:
    part = dict(part)
    part.pop("row")
    total = add(total, params, part, part.pop("real"), keys.root(5))
  return params, total


def test_it_is_the_sum_of_gradients_each_clipped(network):
  """Row by row with jax.grad and NumPy; some rows are clipped, some not."""
  _, each, _ = network
  parts = _parts(8)
  params, total = _total(network, parts)

  def loss(params, row, key):
    drawn = each.draw(row, key)
    return each.of(params, *drawn, keys.stream(key, "dropout")).mean()

  grad = jax.jit(jax.value_and_grad(loss))
  sums, norms, losses = None, [], []
  for part in parts:
    for i in np.flatnonzero(part["real"]):
      row = {key: part[key][i : i + 1] for key in ("image", "label")}
      key = keys.stream(keys.root(5), "row", int(part["slot"][i]))
      value, g = grad(params, row, key)
      leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(g)]
      norm = np.sqrt(sum((x**2).sum() for x in leaves))
      clipped = [x * min(1.0, CLIP / norm) for x in leaves]
      sums = clipped if sums is None else list(map(np.add, sums, clipped))
      norms.append(norm)
      losses.append(float(value))
  assert 0 < np.mean(np.array(norms) > CLIP) < 1
  for ours, naive in zip(jax.tree.leaves(total["grads"]), sums, strict=True):
    np.testing.assert_allclose(ours, naive, rtol=1e-4, atol=1e-5)
  assert float(total["loss"]) == pytest.approx(sum(losses), rel=1e-5)
  assert int(total["images"]) == len(norms)
  assert int(total["clipped"]) == sum(np.array(norms) > CLIP)


def test_micro_batches_of_any_size_give_the_same_sum(network):
  small, large = (_total(network, _parts(size))[1] for size in (4, 40))
  jax.tree.map(
    lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5),
    small,
    large,
  )


def test_no_row_moves_the_sum_by_more_than_the_clip(network):
  parts = _parts(40)
  _, whole = _total(network, parts)
  for place in np.flatnonzero(parts[0]["real"])[:5]:
    real = parts[0]["real"].copy()
    real[place] = False
    _, less = _total(network, [{**parts[0], "real": real}])
    moved = optax.tree.norm(
      jax.tree.map(jnp.subtract, whole["grads"], less["grads"])
    )
    assert float(moved) <= CLIP * (1 + 1e-4)


def test_the_noise_is_normal_and_of_the_scale_that_was_accounted():
  """From a sum of nothing: what moves the weights is noise alone."""
  shapes = {"a": jnp.zeros((300, 100)), "b": jnp.zeros(20_000)}
  tx = optax.sgd(1.0)
  one = {"params": shapes, "ema": shapes, "opt": tx.init(shapes)}
  one["step"] = jnp.zeros((), jnp.int32)
  finish = jax.jit(
    private_step.noised_update(
      tx, lambda step: 1.0, ema=0.9, batch=20, clip=CLIP
    )
  )
  found = []
  for at in range(2):
    total = private_step.nothing(shapes)
    new, _ = finish(one, total, keys.stream(keys.root(0), "step", at), 1.7)
    leaves = jax.tree.leaves(new["params"])
    found.append(np.concatenate([np.ravel(x) for x in leaves]))
  expected = 1.7 * CLIP / 20
  n = found[0].size
  for values in found:
    # (n - 1) s^2 / sigma^2 is chi-squared: a two-sided test at 1e-6.
    chi = n * np.var(values) / expected**2
    low, high = scipy.stats.chi2.ppf([5e-7, 1 - 5e-7], n - 1)
    assert low < chi < high
    assert scipy.stats.kstest(values / expected, "norm").pvalue > 1e-6
  assert abs(np.corrcoef(found)[0, 1]) < 5 / np.sqrt(n)  # of other steps


def test_it_trains_and_a_stopped_run_goes_on_to_the_same_weights(tmp_path):
  config = copy.deepcopy(CONFIG)
  config["train"] |= {"shift": 1, "checkpoint_every": 2, "steps": 4}
  config["train"] |= {"preview_every": 3, "log_every": 1}
  config["train"]["privacy"] = {
    "noise_multiplier": 4.0,
    "epsilon": None,
    "delta": 1e-3,
    "clip": 1.0,
    "microbatch": 8,
  }

  class Stop(Exception):
    pass

  def stop(build, folder):
    def draw(now, params):
      if now == 3:
        raise Stop

    return draw

  with pytest.raises(Stop):
    run.run(tmp_path / "a", **config, preview=stop, progress=False)
  run.run(tmp_path / "a", **config, progress=False)
  run.run(tmp_path / "b", **config, progress=False)
  stopped, calm = (workdir.require(tmp_path / x, "train") for x in "ab")
  assert stopped["weights"] == calm["weights"]
  assert calm["privacy"]["rows"] == 48
  assert list(calm["privacy"]["by_copies"]) == ["1", "5"]
  assert calm["privacy"]["epsilon"] < calm["privacy"]["by_copies"]["5"]
  lines = (tmp_path / "b" / "train" / "metrics.jsonl").read_text()
  assert '"clipped"' in lines


def test_what_cannot_be_private_is_refused_before_anything_is_made(tmp_path):
  config = copy.deepcopy(CONFIG)
  config["train"]["privacy"] = {
    "noise_multiplier": 4.0,
    "epsilon": None,
    "delta": 0.1,
    "clip": 1.0,
    "microbatch": 8,
  }
  with pytest.raises(ValueError, match="1 / 48"):
    run.run(tmp_path, **config, progress=False)
  assert not (tmp_path / "train").exists()
  config["train"]["privacy"]["microbatch"] = 12
  with pytest.raises(ValueError, match=r"microbatch=12 does not divide over 8"):
    run.run(tmp_path, **config, progress=False)
