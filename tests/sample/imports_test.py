# SPDX-License-Identifier: Apache-2.0
"""Banks from outside: what is kept, what is left out, and stops."""

import csv
import io
import json
import os
import shutil
import struct
import zlib

import numpy as np
import pytest
from PIL import Image, PngImagePlugin

import diffmem
from diffmem import store
from diffmem.sample import filling, imports, run

RNG = np.random.default_rng(0)


def noise(*shape):
  return RNG.integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels, kind="png", **options):
  file = io.BytesIO()
  image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
  image.save(file, kind, **options)
  return file.getvalue()


def says(content, width, height):
  """The PNG with another size in its header, and the right checksum."""
  head = content[12:16] + struct.pack(">II", width, height) + content[24:29]
  return (
    content[:12] + head + struct.pack(">I", zlib.crc32(head)) + content[33:]
  )


def save(folder, files):
  """Writes {name: bytes or pixels}; returns the folder."""
  for name, content in files.items():
    file = folder / name
    file.parent.mkdir(parents=True, exist_ok=True)
    is_array = isinstance(content, np.ndarray)
    file.write_bytes(encoded(content) if is_array else content)
  return folder


def section(path, **options):
  return {
    "path": str(path),
    "prompts": None,
    "crop": "none",
    "resize": None,
    "filter": "lanczos",
    "max_pixels": 2**20,
    "batch": 4,
    **options,
  }


def bring(root, path, **options):
  run.run(root, seed=0, sample=section(path, **options), progress=False)
  return diffmem.open_bank(root)


def left_out(root):
  with (root / "sample" / "left_out.csv").open(newline="") as f:
    header, *rows = csv.reader(f)
  assert header == ["name", "reason"]
  assert len({name for name, _ in rows}) == len(rows)
  return dict(rows)


def refusal(root, path, **options):
  with pytest.raises(ValueError) as error:
    bring(root, path, **options)
  assert "\n" not in str(error.value)
  assert not (root / "sample").exists(), "nothing was to be computed"
  return str(error.value)


@pytest.fixture
def work(tmp_path):
  return tmp_path / "work"


@pytest.fixture
def given(tmp_path):
  return tmp_path / "given"


def test_a_folder_with_prompts_by_sub_folder(work, given):
  names = [f"{p}/{i}.png" for p in ("a cat", "<b>dog") for i in range(5)]
  pixels = {name: noise(4, 6, 3) for name in names}
  save(given, pixels)
  bank = bring(work, given)
  assert bank.names == tuple(sorted(names))
  for image, name in zip(bank[:], bank.names, strict=True):
    np.testing.assert_array_equal(image, pixels[name])
  assert bank.prompts == ("<b>dog", "a cat")
  assert bank.prompt_ids.tolist() == [0] * 5 + [1] * 5
  meta = bank.meta
  assert meta["status"] == "finished"
  assert meta["generated"] == 10
  assert meta["counts"]["kept"] == 10
  assert meta["counts"]["left_out"] == 0
  assert meta["prompts"]["images"] == [5, 5.0, 5]
  assert left_out(work) == {}
  assert {x.name for x in (work / "sample").iterdir()} == {
    *("images", "meta.json", "names.json", "prompts.json"),
    *("prompt_ids.npy", "left_out.csv", ".lock"),
  }


def test_odd_files_are_listed_and_the_rest_is_kept(work, given):
  good = {f"{i}.png": noise(8, 8, 3) for i in range(3)}
  big = noise(64, 64, 3)
  frames = [Image.new("RGB", (8, 8), c) for c in ("red", "blue")]
  bomb = says(encoded(big), 30000, 30000)
  bad = {
    "cut.png": encoded(noise(8, 8, 3))[:-40],
    "cut.jpg": encoded(noise(8, 8, 3), "jpeg")[:-60],
    "moves.gif": encoded(
      frames[0], "gif", save_all=True, append_images=frames[1:]
    ),
    "bomb.png": bomb,
    "over.png": says(encoded(big), 1025, 1024),
    "deep.tif": encoded(np.zeros((8, 8), np.float32), "tiff"),
    "text.png": b"<script>alert(1)</script>",
    "empty.jpg": b"",
    "notes.md": b"x",
    ".hidden.png": encoded(big),
  }
  save(given, good | bad)
  os.mkfifo(given / "pipe.png")  # opening it would wait for ever
  (given / "broken.png").symlink_to("nowhere")
  bank = bring(work, given)
  assert bank.names == tuple(good)
  np.testing.assert_array_equal(bank[:], np.stack([*good.values()]))
  why = left_out(work)
  assert why.keys() == {*bad, "pipe.png", "broken.png"}
  for name, part in {
    "cut.png": "is corrupt",
    "cut.jpg": "is corrupt",
    "moves.gif": "has 2 frames",
    "bomb.png": "too many pixels",
    "over.png": "is 1025x1024: over the limit of 1048576",
    "deep.tif": "32-bit",
    "text.png": "not an image",
    "empty.jpg": "not an image",
    "notes.md": "no image by its name",
    ".hidden.png": "hidden",
    "pipe.png": "no plain file",
    "broken.png": "cannot be read",
  }.items():
    assert part in why[name], name
  counts = bank.meta["counts"]
  assert counts["left_out"] == 12
  assert counts["left_out_by_reason"]["damaged"] == 4
  assert counts["left_out_by_reason"]["huge"] == 2
  assert sum(counts["left_out_by_reason"].values()) == 12


def test_a_bomb_is_not_decoded(given, work, monkeypatch):
  small = encoded(noise(8, 8, 3))
  sizes = [(2**15, 2**15), (1025, 1024)]
  bombs = {f"{w}.png": says(small, w, h) for w, h in sizes}
  save(given, {"a.png": small} | bombs)
  loaded = []
  load = PngImagePlugin.PngImageFile.load

  def spy(self):
    loaded.append(self.size)
    return load(self)

  monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", spy)
  assert len(bring(work, given)) == 1
  assert set(loaded) == {(8, 8)}
  assert left_out(work).keys() == bombs.keys()


def test_every_kind_of_pixel_becomes_rgb(work, given):
  grey = noise(8, 8)
  palette = Image.fromarray(grey).convert("P")
  palette.putpalette([x for i in range(256) for x in (i, 255 - i, 7)])
  deep = (np.arange(64, dtype=np.uint16) * 1000).reshape(8, 8)
  inks = Image.new("CMYK", (8, 8), (0, 255, 255, 0))
  clear = np.zeros((8, 8, 4), np.uint8)
  files = {
    "a_colour.png": noise(8, 8, 3),
    "b_grey.png": grey,
    "c_palette.png": encoded(palette),
    "d_deep.png": encoded(deep),
    "e_inks.jpg": encoded(inks, "jpeg", quality=100),
    "f_clear.png": encoded(clear),
  }
  save(given, files)
  bank = bring(work, given)
  assert left_out(work) == {}
  assert bank.shape == (6, 8, 8, 3)
  np.testing.assert_array_equal(bank[1], np.repeat(grey[..., None], 3, -1))
  expected = np.stack([grey, 255 - grey, np.full_like(grey, 7)], -1)
  np.testing.assert_array_equal(bank[2], expected)
  levels = np.round(deep / 257).astype(np.uint8)
  np.testing.assert_array_equal(bank[3], np.repeat(levels[..., None], 3, -1))
  np.testing.assert_allclose(bank[4], np.broadcast_to([255, 0, 0], (8, 8, 3)),
                             atol=4)  # fmt: skip
  assert (bank[5] == 255).all()
  assert bank.meta["counts"]["grey_files"] == 2
  assert bank.meta["rule"]["colour"] == "RGB, grey ones too"


def test_grey_alone_stays_grey(work, given):
  grey = noise(4, 4)
  bank = bring(work, save(given, {"a.png": grey}))
  np.testing.assert_array_equal(bank[:], grey[None, ..., None])
  assert bank.meta["rule"]["colour"] == "grey"


def test_several_sizes_need_a_rule(work, given):
  save(given, {f"{i}.png": noise(8, 8, 3) for i in range(3)})
  save(given, {"x.png": noise(6, 6, 3), "y.png": noise(4, 4, 3)})
  message = refusal(work, given)
  assert "images have 3 sizes: 3 of 8x8, 1 of 6x6, 1 of 4x4" in message
  assert "--config.sample.resize=SIDE, or remove" in message
  bank = bring(work, given, resize=4, filter="box")
  assert bank.shape == (5, 4, 4, 3)
  image = np.asarray(Image.open(given / "0.png")).astype(int)
  boxes = image.reshape(4, 2, 4, 2, 3).sum((1, 3)) / 4
  assert np.abs(bank[0] - boxes).max() <= 1  # rounded twice
  assert bank.meta["rule"]["filter"] == "box"


def test_nothing_is_squashed(work, given):
  turned = Image.Exif()
  turned[0x0112] = 6
  wide = Image.fromarray(noise(4, 6, 3))
  save(given, {"a.png": noise(8, 8, 3), "b.png": encoded(wide, exif=turned)})
  message = refusal(work, given, resize=4)
  assert "1 of 2 images are not square (1 of 8x8, 1 of 4x6)" in message
  assert "crop=center" in message
  assert "crop=center, or remove" in refusal(work, given)
  bank = bring(work, given, resize=4, crop="center")
  upright = np.rot90(np.asarray(wide), -1)  # 6 rows of 4
  np.testing.assert_array_equal(bank[1], upright[1:5])


def test_a_size_that_only_decoding_shows_is_left_out(work, given, monkeypatch):
  save(given, {f"{i}.png": noise(4, 4, 3) for i in range(3)})
  files = imports._open(str(given))
  fit = imports.Fit("none", None, "box")
  job = imports._files_job(files, fit, section(given), False)
  save(given, {"1.png": noise(5, 4, 3)})
  results = list(job.read(0))
  assert results[1] == "is 4x5, its header says 4x4"
  assert [isinstance(x, np.ndarray) for x in results] == [True, False, True]


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"path": None}, "sample.path is not set"),
    ({"batch": 0}, "sample.batch=0 must be at least 1"),
    ({"max_pixels": 2**40}, "sample.max_pixels=1099511627776 must be in"),
    ({"crop": "left"}, "crop='left': expected one of"),
    ({"resize": -1}, "resize=-1: expected a side"),
  ],
)
def test_wrong_options_are_refused(work, given, change, message):
  save(given, {"a.png": noise(4, 4, 3)})
  sample = section(given) | change
  with pytest.raises(ValueError, match=message):
    imports.run(work, sample=sample, progress=False)
  assert not work.exists()


def test_nothing_there_nothing_usable(work, given, tmp_path):
  with pytest.raises(FileNotFoundError, match="no such file or folder"):
    bring(work, given)
  given.mkdir()
  assert "holds no images among its 0 files: expected" in refusal(work, given)
  save(given, {"a.txt": b"", "0.zip": b""})
  message = refusal(work, given)
  assert "among its 2 files ('0.zip', 'a.txt')" in message
  assert "one archive at a time" in message
  save(given, {"a.png": b"", "b.png": encoded(noise(4, 4))[:20]})
  message = refusal(work, given)
  assert "no usable image among 2: 'a.png' is corrupt (not an image)" in message
  (tmp_path / "x.rar").touch()
  assert "x.rar: expected a folder, .zip" in refusal(work, tmp_path / "x.rar")


def test_images_that_are_all_cut_are_an_error(work, given):
  save(given, {"a.png": encoded(noise(32, 32, 3))[:-100]})
  with pytest.raises(ValueError, match="none of the 1 candidates is a usable"):
    bring(work, given)


def test_one_image(work, given):
  pixels = noise(4, 4, 3)
  bank = bring(work, save(given, {"p/a.png": pixels}), batch=512)
  np.testing.assert_array_equal(bank[:], pixels[None])
  assert bank.prompts == ("p",)
  assert bank.meta["prompts"]["images"] == [1, 1.0, 1]


def damaged_folder(given):
  """Twenty images in five folders, of which decoding leaves out six."""
  files = {f"p{i % 5}/{i:02d}.png": noise(16, 16, 3) for i in range(20)}
  for i, name in enumerate(sorted(files)):
    if i in (0, 6, 7, 11, 18, 19):
      files[name] = encoded(files[name])[:-200]
  return save(given, files)


def content(root):
  return {
    file.relative_to(root): file.read_bytes()
    for file in sorted((root / "sample").rglob("*"))
    if file.is_file() and file.name not in ("meta.json", ".lock")
  }


class Killed(BaseException):
  """Like a kill: nothing catches it."""


@pytest.fixture(scope="module")
def calm(tmp_path_factory):
  given = damaged_folder(tmp_path_factory.mktemp("given"))
  root = tmp_path_factory.mktemp("calm")
  bank = bring(root, given)
  assert len(bank) == 14
  assert len(left_out(root)) == 6
  return given, content(root), bank.meta


def stop(monkeypatch, owner, name, after, *, before):
  """Kills the run at the call `after` of a function."""
  real, calls = getattr(owner, name), []

  def stopped(*args, **options):
    calls.append(None)
    if len(calls) == after and before:
      raise Killed
    result = real(*args, **options)
    if len(calls) == after:
      raise Killed
    return result

  monkeypatch.setattr(owner, name, stopped)


@pytest.mark.parametrize("before", [True, False])
@pytest.mark.parametrize(
  ("owner", "name", "after"),
  [
    *((store.Store, "write", i) for i in (1, 2, 3, 4)),
    *((filling._Journal, "write", i) for i in (1, 4)),
    (filling, "_result", 1),
    (store, "shorten", 1),
    (imports.records, "write", 1),
    (imports.records, "about", 1),
  ],
)
def test_a_stopped_import_goes_on(
  calm, tmp_path, monkeypatch, owner, name, after, before
):
  given, expected, meta = calm
  with monkeypatch.context() as patch:
    stop(patch, owner, name, after, before=before)
    with pytest.raises(Killed):
      bring(tmp_path, given)
  written = list((tmp_path / "sample" / "images" / "c").glob("*/0/0/0"))
  times = {file: file.stat().st_mtime_ns for file in written}
  with pytest.raises((ValueError, FileNotFoundError)):
    diffmem.workdir.require(tmp_path, "sample")
  bank = bring(tmp_path, given)
  assert content(tmp_path) == expected
  for key in ("pixels", "counts", "prompts", "generated", "shape"):
    assert bank.meta[key] == meta[key], key
  # A chunk whose record is missing is made again, at most one.
  again = [f for f, t in times.items() if f.stat().st_mtime_ns != t]
  assert len(again) <= 1


def test_only_what_is_missing_is_decoded(calm, tmp_path, monkeypatch):
  given, _, _ = calm
  with monkeypatch.context() as patch:
    stop(patch, filling._Journal, "write", 2, before=False)
    with pytest.raises(Killed):
      bring(tmp_path, given)
  asked = []
  real = imports.decoding.decode

  def spy(feed, *args):
    feed = list(feed)
    asked.append(len(feed))
    return real(feed, *args)

  monkeypatch.setattr(imports.decoding, "decode", spy)
  bring(tmp_path, given)
  # Eight kept images, and 0, 6 and 7 left out, lie in the first two chunks.
  assert asked == [20 - 11]


def test_a_finished_import_is_kept_even_without_its_source(calm, tmp_path):
  given, expected, _ = calm
  moved = tmp_path / "given"
  shutil.copytree(given, moved)
  root = tmp_path / "work"
  bring(root, moved)
  before = (root / "sample" / "meta.json").read_bytes()
  shutil.rmtree(moved)
  bring(root, moved)
  assert content(root) == expected
  assert (root / "sample" / "meta.json").read_bytes() == before
  with pytest.raises(
    ValueError, match=r"sample\.resize = None, this run has 4"
  ):
    bring(root, moved, resize=4)
  with pytest.raises(FileNotFoundError):
    bring(tmp_path / "other", moved)


@pytest.mark.parametrize("finished", [True, False])
def test_a_changed_source_is_refused(work, given, finished, monkeypatch):
  damaged_folder(given)
  if finished:
    bring(work, given)
  else:
    with monkeypatch.context() as patch:
      stop(patch, store.Store, "write", 2, before=True)
      with pytest.raises(Killed):
        bring(work, given)
  before = content(work)
  save(given, {"p1/new.png": noise(16, 16, 3)})
  with pytest.raises(ValueError, match="was made with its input 'source'"):
    bring(work, given)
  (given / "p1" / "new.png").unlink()
  file = given / "p1" / "01.png"
  about = file.stat()
  os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns + 1))
  with pytest.raises(ValueError, match="was made with its input 'source'"):
    bring(work, given)
  assert content(work) == before
  os.utime(file, ns=(about.st_atime_ns, about.st_mtime_ns))
  assert len(bring(work, given)) == 14


def test_a_lost_chunk_is_made_again(calm, tmp_path):
  given, expected, _ = calm
  bring(tmp_path, given)
  (tmp_path / "sample" / "images" / "c" / "1" / "0" / "0" / "0").unlink()
  bring(tmp_path, given)
  assert content(tmp_path) == expected


def test_images_lie_in_chunks_of_bounded_size():
  assert filling.chunk_rows(512, (32, 32, 3)) == 512
  assert filling.chunk_rows(512, (512, 512, 3)) * 512 * 512 * 3 <= 2**26
  assert filling.chunk_rows(512, (8192, 8192, 3)) == 1


def test_the_hash_in_meta_is_of_the_pixels(work, given, tmp_path):
  save(given, {f"{i}.png": noise(4, 4, 3) for i in range(6)})
  first = bring(work, given).meta["pixels"]
  again = bring(tmp_path / "again", given)
  assert again.meta["pixels"] == first
  save(given, {"5.png": noise(4, 4, 3)})
  assert bring(tmp_path / "other", given).meta["pixels"] != first
  json.dumps(again.meta)
