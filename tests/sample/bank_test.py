# SPDX-License-Identifier: Apache-2.0
"""Banks: each id once, bit-identical after any stop, on any devices."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import zarr

import diffmem
from diffmem import arrays, denoiser, keys, store
from diffmem.diffusion import schedules
from diffmem.sample import bank, run

KEY = keys.stream(keys.root(0), "sample")


def _generate(params, ids, key):
  """Stands in for a sampler: an image is a function of weights and its id."""
  draw = jax.vmap(lambda k: jax.random.uniform(k, (2, 3, 1), minval=-1.0))
  return draw(keys.per_id(key, ids)) * params["scale"]


def _store(path, n, chunk=4):
  return store.create(path, shape=(n, 2, 3, 1), dtype=np.uint8, chunk=chunk)


PARAMS = {"scale": np.float32(1.0)}


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  images = _store(tmp_path_factory.mktemp("bank") / "images", 70)
  bank.fill(images, _generate, PARAMS, KEY, progress=False)
  return images[:]


def test_image_i_is_a_function_of_i(whole):
  x = _generate(PARAMS, np.array([69, 3], np.int32), KEY)
  expected = np.round((np.asarray(x) + 1) * 127.5).astype(np.uint8)
  assert (whole[[69, 3]] == expected).all()
  assert len(np.unique(whole.reshape(70, -1), axis=0)) == 70


@pytest.mark.parametrize("n", [1, 3, 33, 70])
def test_the_size_of_a_bank_changes_no_image(whole, tmp_path, n):
  images = _store(tmp_path / "images", n)
  bank.fill(images, _generate, PARAMS, KEY, progress=False)
  assert (images[:] == whole[:n]).all()


def test_the_second_backend_agrees(whole, tmp_path):
  images = _store(tmp_path / "images", 70)
  bank.fill(images, _generate, PARAMS, KEY, backend="jit", progress=False)
  assert (images[:] == whole).all()
  with pytest.raises(ValueError, match="is none of"):
    bank.fill(
      _store(tmp_path / "other", 3), _generate, PARAMS, KEY, backend="gpu"
    )


def test_only_what_is_missing_is_made(whole, tmp_path):
  images = _store(tmp_path / "images", 70)
  bank.fill(images, _generate, PARAMS, KEY, progress=False)
  kept = tmp_path / "images" / "c" / "5" / "0" / "0" / "0"
  before = kept.stat().st_mtime_ns
  for number in (0, 7, 17):
    (tmp_path / "images" / "c" / str(number) / "0" / "0" / "0").unlink()
  again = store.create(
    tmp_path / "images", shape=(70, 2, 3, 1), dtype=np.uint8, chunk=4
  )
  bank.fill(again, _generate, PARAMS, KEY, progress=False)
  assert (again[:] == whole).all()
  assert kept.stat().st_mtime_ns == before


def test_a_damaged_chunk_stops_before_anything_is_made(tmp_path):
  images = _store(tmp_path / "images", 8)
  bank.fill(images, _generate, PARAMS, KEY, progress=False)
  file = tmp_path / "images" / "c" / "0" / "0" / "0" / "0"
  content = bytearray(file.read_bytes())
  content[0] ^= 255
  file.write_bytes(content)
  with pytest.raises(ValueError, match=r"c/0/0/0/0 \(rows 0\.\.3\) is damaged"):
    bank.fill(images, _generate, PARAMS, KEY, progress=False)


def test_images_that_are_not_finite_are_named_and_not_written(tmp_path):
  images = _store(tmp_path / "images", 8)
  bad = {"scale": np.float32("nan")}
  with pytest.raises(FloatingPointError, match="the first has id 0"):
    bank.fill(images, _generate, bad, KEY, progress=False)
  assert images.written() == []


def test_a_bank_opens_as_an_array(whole, tmp_path):
  folder = tmp_path / "sample"
  bank.fill(
    _store(folder / "images", 70), _generate, PARAMS, KEY, progress=False
  )
  for path in (tmp_path, folder, folder / "images"):
    opened = diffmem.open_bank(path)
    assert opened.shape == (70, 2, 3, 1)
    assert (np.asarray(opened) == whole).all()
  assert opened.ids.tolist() == list(range(70))
  assert (opened[opened.ids[5:9]] == whole[5:9]).all()
  assert sum(len(block) for _, block in opened.blocks()) == 70
  read = zarr.open_array(str(folder / "images"), mode="r")
  assert (read[:] == whole).all()


def test_an_unfinished_or_absent_bank_is_refused(tmp_path):
  _store(tmp_path / "images", 8).write(1, np.zeros((4, 2, 3, 1), np.uint8))
  with pytest.raises(ValueError, match="1 of 2 chunks are there; rerun"):
    diffmem.open_bank(tmp_path)
  with pytest.raises(FileNotFoundError, match="run diffmem-sample first"):
    diffmem.open_bank(tmp_path / "nowhere")


def test_prompts_and_names_lie_beside_the_images(whole, tmp_path):
  bank.fill(
    _store(tmp_path / "images", 70), _generate, PARAMS, KEY, progress=False
  )
  plain = diffmem.open_bank(tmp_path)
  assert (plain.prompts, plain.prompt_ids, plain.names) == (None, None, None)
  ids = np.arange(70) % 3 - 1
  names = [f"<b>{i}.png" for i in range(70)]
  bank.write_beside(tmp_path, prompts=["", "π"], prompt_ids=ids, names=names)
  opened = diffmem.open_bank(tmp_path)
  assert opened.prompts == ("", "π")
  assert opened.names == tuple(names)
  assert opened.prompt_ids.dtype == np.int64
  assert (opened.prompt_ids == ids).all()


@pytest.mark.parametrize(
  ("beside", "message"),
  [
    (dict(names=["a"] * 7), "has 7 names for 8 images"),
    (dict(prompts=["a"], prompt_ids=np.zeros(7)), "each of 8 images one of 1"),
    (dict(prompts=["a"], prompt_ids=np.ones(8)), "each of 8 images one of 1"),
    (dict(prompts=["a"], prompt_ids=np.full(8, -2)), "each of 8 images one"),
  ],
)
def test_what_is_of_another_bank_is_refused(tmp_path, beside, message):
  bank.fill(
    _store(tmp_path / "images", 8), _generate, PARAMS, KEY, progress=False
  )
  if "prompt_ids" in beside:
    beside = beside | {"prompt_ids": beside["prompt_ids"].astype(np.int64)}
  bank.write_beside(tmp_path, **beside)
  with pytest.raises(ValueError, match=message):
    diffmem.open_bank(tmp_path)
  (tmp_path / "prompts.json").write_text("[]")
  (tmp_path / "prompt_ids.npy").unlink(missing_ok=True)
  (tmp_path / "names.json").unlink(missing_ok=True)
  with pytest.raises(ValueError, match=r"without prompt_ids\.npy"):
    diffmem.open_bank(tmp_path)


def test_a_sampler_makes_the_same_images_on_one_device_and_on_eight(tmp_path):
  schedule = schedules.linear(steps=20)
  points = np.linspace(-1, 1, 5 * 6, dtype=np.float32).reshape(5, 2, 3, 1)
  oracle = denoiser.finite_set(points, schedule)
  options = dict(
    stepper="ddpm_fixed_small", steps=20, eta=0.0, guidance=1.0, clip=True
  )
  banks = {}
  for n in (4, 70):  # one block, or eighteen on eight devices
    images = _store(tmp_path / str(n), n)
    generate = run.generator(oracle, **options)
    bank.fill(images, generate, oracle.params, KEY, progress=False)
    banks[n] = images[:]
  assert (banks[4] == banks[70][:4]).all()
  pixels = np.asarray(arrays.to_uint8(jnp.asarray(points))).reshape(5, -1)
  found = {tuple(row) for row in banks[70].reshape(70, -1)}
  assert found == {tuple(row) for row in pixels}
