# SPDX-License-Identifier: Apache-2.0
"""Arrays from outside: files and Python, read in blocks."""

import io
import tracemalloc
import zipfile

import numpy as np
import pytest
import zarr

import diffmem
from diffmem import store
from diffmem.sample import array_files, bank, imports

RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (11, 4, 6, 3), dtype=np.uint8)
TEXTS = ["a", "", "<b>", "a"] * 2 + ["π", "a", ""]


def bring(root, path, **options):
  sample = dict(path=str(path), prompts=None, crop="none", resize=None)
  sample |= dict(filter="box", max_pixels=2**20, batch=4)
  imports.run(root, sample=sample | options, progress=False)
  return diffmem.open_bank(root)


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
  monkeypatch.setattr(array_files, "BLOCK_BYTES", 3 * IMAGES[0].size)


@pytest.fixture
def work(tmp_path):
  return tmp_path / "work"


@pytest.mark.parametrize("key", ["images", "arr_0"])
@pytest.mark.parametrize("save", [np.savez, np.savez_compressed])
def test_npz(work, tmp_path, key, save):
  save(tmp_path / "a.npz", **{key: IMAGES}, prompts=TEXTS, names=TEXTS)
  found = bring(work, tmp_path / "a.npz")
  np.testing.assert_array_equal(found[:], IMAGES)
  assert [found.prompts[i] for i in found.prompt_ids] == TEXTS
  assert found.prompts == ("a", "", "<b>", "π")
  assert found.names == tuple(TEXTS)
  assert found.meta["source"]["kind"] == "npz"
  assert found.meta["counts"]["kept"] == 11


def test_npy_and_grey(work, tmp_path):
  np.save(tmp_path / "a.npy", IMAGES[..., 0])
  found = bring(work, tmp_path / "a.npy")
  np.testing.assert_array_equal(found[:], IMAGES[..., :1])
  assert (found.prompts, found.names) == (None, None)


@pytest.mark.parametrize("version", [2, 3])
def test_zarr(work, tmp_path, version):
  array = zarr.create_array(
    str(tmp_path / "a"),
    shape=IMAGES.shape,
    chunks=(5, 4, 6, 3),
    dtype="uint8",
    zarr_format=version,
  )
  array[:] = IMAGES
  found = bring(work, tmp_path / "a", crop="center", resize=2)
  assert found.shape == (11, 2, 2, 3)
  middle = IMAGES[:, :, 1:5].astype(float)
  boxes = middle.reshape(11, 2, 2, 2, 2, 3).mean((2, 4))
  assert np.abs(found[:] - boxes).max() <= 1


def test_a_bank_is_imported_with_its_prompts(work, tmp_path):
  imports.from_arrays(
    tmp_path / "one", IMAGES, prompts=TEXTS, names=TEXTS, progress=False
  )
  for place in ("one", "one/sample", "one/sample/images"):
    root = tmp_path / place.replace("/", "_") / "two"
    found = bring(root, tmp_path / place)
    np.testing.assert_array_equal(found[:], IMAGES)
    assert [found.prompts[i] for i in found.prompt_ids] == TEXTS
    assert found.names == tuple(TEXTS)


@pytest.mark.parametrize(
  ("arrays", "message"),
  [
    ({"images": IMAGES / np.float32(255)}, "are float32 in [0"),
    ({"images": IMAGES.transpose(0, 3, 1, 2)}, "channels first"),
    ({"images": IMAGES[0, 0]}, "expected images [n h w c]"),
    ({"images": IMAGES[:0]}, "expected images [n h w c]"),
    ({"images": np.asfortranarray(IMAGES)}, "by columns"),
    ({"images": IMAGES.astype(object)}, "never unpickled"),
    ({"pictures": IMAGES}, "has no 'images', only ['pictures']"),
    ({"images": IMAGES, "prompts": TEXTS[:3]}, "3 prompts for 11 images"),
    ({"images": IMAGES, "names": TEXTS[:3]}, "3 names for 11 images"),
    ({"images": IMAGES, "prompts": np.zeros(11)}, "expected unicode strings"),
  ],
)
def test_wrong_arrays_are_refused(work, tmp_path, arrays, message):
  np.savez(tmp_path / "a.npz", allow_pickle=True, **arrays)
  with pytest.raises(ValueError) as error:
    bring(work, tmp_path / "a.npz")
  assert message in str(error.value)
  assert "a.npz" in str(error.value)
  assert "\n" not in str(error.value)
  assert not work.exists()


def test_damaged_files_are_refused(work, tmp_path):
  path = tmp_path / "a.npz"
  np.savez(path, images=IMAGES)
  whole = path.read_bytes()
  path.write_bytes(whole[:300])
  with pytest.raises(ValueError, match="is not a readable npz file"):
    bring(work, path)
  (tmp_path / "a.npy").write_bytes(whole)
  with pytest.raises(ValueError, match=r"a\.npy cannot be read"):
    bring(work, tmp_path / "a.npy")
  np.save(tmp_path / "b.npy", IMAGES)
  content = (tmp_path / "b.npy").read_bytes()
  (tmp_path / "b.npy").write_bytes(content[:-5])
  with pytest.raises(ValueError, match=r"b\.npy cannot be read: it ends too"):
    bring(work, tmp_path / "b.npy")
  zarr.create_group(str(tmp_path / "group"))
  with pytest.raises(ValueError, match="is no zarr array"):
    bring(tmp_path / "other", tmp_path / "group")
  with pytest.raises(ValueError, match="an array holds its prompts itself"):
    bring(tmp_path / "third", path_of(tmp_path), prompts="folders")


def path_of(folder):
  np.savez(folder / "good.npz", images=IMAGES)
  return folder / "good.npz"


def test_a_header_that_lies_asks_for_no_memory(work, tmp_path):
  f = io.BytesIO()
  np.lib.format.write_array_header_1_0(
    f, {"descr": "|u1", "fortran_order": False, "shape": (1, 2**20, 2**20, 3)}
  )
  with zipfile.ZipFile(tmp_path / "a.npz", "w") as archive:
    archive.writestr("images.npy", f.getvalue())
  with pytest.raises(ValueError, match="is over the limit"):
    bring(work, tmp_path / "a.npz")


def test_a_large_array_is_never_in_memory(work, tmp_path, monkeypatch):
  monkeypatch.setattr(array_files, "BLOCK_BYTES", 2**18)
  images = RNG.integers(0, 256, (3000, 64, 64, 1), dtype=np.uint8)
  np.savez(tmp_path / "a.npz", images=images)
  expected, size = images[2999].copy(), images.nbytes
  del images
  tracemalloc.start()
  found = bring(work, tmp_path / "a.npz", batch=64)
  peak = tracemalloc.get_traced_memory()[1]
  tracemalloc.stop()
  np.testing.assert_array_equal(found[2999], expected)
  assert peak < size / 3


def test_a_stopped_import_of_an_array_goes_on(work, tmp_path, monkeypatch):
  path = path_of(tmp_path)
  real, calls = store.Store.write, []

  def stopped(self, number, values):
    calls.append(number)
    if len(calls) == 2:
      raise KeyboardInterrupt
    real(self, number, values)

  with monkeypatch.context() as patch:
    patch.setattr(store.Store, "write", stopped)
    with pytest.raises(KeyboardInterrupt):
      bring(work, path)
  np.testing.assert_array_equal(bring(work, path)[:], IMAGES)
  assert calls == [0, 1]


class Sliced:
  """An array on a disk: it has a shape, a type and slices."""

  shape, dtype = IMAGES.shape, IMAGES.dtype

  def __len__(self):
    return len(IMAGES)

  def __getitem__(self, rows):
    assert isinstance(rows, slice)
    return IMAGES[rows]


@pytest.mark.parametrize(
  "images",
  [
    IMAGES,
    Sliced(),
    [IMAGES[:5], IMAGES[5:]],
    iter([IMAGES[:1], IMAGES[1:9], IMAGES[9:]]),
    (block for block in np.split(IMAGES, 11)),
  ],
)
def test_images_in_python(work, images):
  imports.from_arrays(work, images, prompts=TEXTS, batch=4, progress=False)
  found = diffmem.open_bank(work)
  np.testing.assert_array_equal(found[:], IMAGES)
  assert [found.prompts[i] for i in found.prompt_ids] == TEXTS
  assert found.names is None
  assert found.meta["generated"] == 11


def test_equal_arrays_are_kept_others_refused(work):
  def bring(images, **options):
    imports.from_arrays(work, images, progress=False, **options)

  bring(IMAGES, prompts=TEXTS)
  before = (work / "sample" / "meta.json").read_bytes()
  bring(IMAGES.copy(), prompts=list(TEXTS))
  assert (work / "sample" / "meta.json").read_bytes() == before
  other = IMAGES.copy()
  other[10, 3, 5, 2] ^= 1
  for change in (
    dict(images=other, prompts=TEXTS),
    dict(images=IMAGES, prompts=TEXTS[::-1]),
    dict(images=IMAGES),
  ):
    with pytest.raises(ValueError, match="was made with its input 'source'"):
      bring(**change)
  with pytest.raises(ValueError, match="holds a bank already, and blocks"):
    bring(iter([IMAGES]))


@pytest.mark.parametrize(
  ("images", "prompts", "message"),
  [
    (IMAGES / 255, None, "are float64 in"),
    (IMAGES, ["a"], "1 prompts for 11 images"),
    (IMAGES[:0], None, "expected images"),
    ([], None, "no block of images came"),
    ([IMAGES, IMAGES[:, :2]], None, "a block has images"),
    ([IMAGES], ["a"], "1 prompts were given for 11 images"),
  ],
)
def test_what_is_wrong_in_python(work, images, prompts, message):
  with pytest.raises(ValueError) as error:
    imports.from_arrays(work, images, prompts=prompts, progress=False)
  assert message in str(error.value)
  with pytest.raises((FileNotFoundError, ValueError)):
    bank.open_bank(work)
