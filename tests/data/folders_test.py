# SPDX-License-Identifier: Apache-2.0
import io
import json

import numpy as np
import pytest
from PIL import Image

from diffmem import data

RNG = np.random.default_rng(1)


def save(path, *, size=(6, 6), channels=3):
  path.parent.mkdir(parents=True, exist_ok=True)
  pixels = RNG.integers(0, 256, (*size, channels), dtype=np.uint8)
  Image.fromarray(pixels.squeeze()).save(path)
  return pixels


def load(path, **options):
  return data.load(f"folder:{path}", **options)


def refusal(path, **options):
  with pytest.raises(ValueError) as error:
    load(path, **options)
  assert "\n" not in str(error.value)
  return str(error.value)


def test_files_come_in_the_order_of_their_paths(tmp_path):
  names = ["b/2.png", "b/10.png", "a.png", "B.bmp", "a/z/1.tiff", "é.webp"]
  pixels = {name: save(tmp_path / name) for name in names[:-1]}
  Image.new("RGB", (6, 6), "red").save(tmp_path / names[-1], lossless=True)
  pixels[names[-1]] = np.broadcast_to(np.uint8([255, 0, 0]), (6, 6, 3))
  dataset = load(tmp_path)
  assert dataset.names == tuple(sorted(names))
  np.testing.assert_array_equal(dataset.ids, np.arange(6))
  for image, name in zip(dataset.images, dataset.names, strict=True):
    np.testing.assert_array_equal(image, pixels[name])
  assert dataset.labels is None
  assert dataset.captions is None


def test_labels_are_the_first_sub_folders(tmp_path):
  for name in ("dog/x/1.png", "cat/2.png", "dog/3.png"):
    save(tmp_path / name)
  dataset = load(tmp_path)
  assert dataset.names == ("cat/2.png", "dog/3.png", "dog/x/1.png")
  np.testing.assert_array_equal(dataset.labels, [0, 1, 1])
  assert dataset.info["class_names"] == ["cat", "dog"]
  assert dataset.num_classes == 2
  save(tmp_path / "loose.png")
  assert load(tmp_path).labels is None


def test_grey_stays_grey_unless_mixed(tmp_path):
  grey = save(tmp_path / "a.png", channels=1)
  assert load(tmp_path).images.shape == (1, 6, 6, 1)
  save(tmp_path / "b.png")
  mixed = load(tmp_path)
  assert mixed.images.shape == (2, 6, 6, 3)
  assert mixed.info["grey_images"] == 1
  np.testing.assert_array_equal(mixed.images[0], np.repeat(grey, 3, -1))


def test_other_files_are_left_out_and_counted(tmp_path):
  save(tmp_path / "a.PNG")
  save(tmp_path / ".hidden.png")
  save(tmp_path / ".thumbs" / "a.png")
  (tmp_path / "notes.txt").write_text("x")
  (tmp_path / "captions.csv").write_text("file,caption\n")
  dataset = load(tmp_path)
  assert dataset.names == ("a.PNG",)
  assert dataset.info["ignored_files"] == 3
  assert dataset.info["caption_file"] == "captions.csv"


def test_hostile_names_are_only_shown(tmp_path):
  names = ["<img src=x onerror=alert(1)>.png", "$(touch x);`y`.png", "a\nb.png"]
  for name in names:
    save(tmp_path / name)
  assert set(load(tmp_path).names) == set(names)
  (tmp_path / names[2]).write_bytes(b"no image")
  assert r"'a\nb.png' is corrupt" in refusal(tmp_path)
  raw = bytes(tmp_path) + b"/\xff.png"
  with open(raw, "wb") as f:
    Image.new("RGB", (6, 6)).save(f, "png")
  (tmp_path / names[2]).unlink()
  assert r"\xff.png" in load(tmp_path).names


def test_captions_from_csv(tmp_path):
  for name in ("a.png", "b/c.png", "d.png"):
    save(tmp_path / name)
  html = '<script>alert("x")</script>, said "he"\nand left'
  quoted = '"' + html.replace('"', '""') + '"'
  text = f"caption,other,file\n{quoted},1,b/c.png\nπ,2,a.png\n"
  (tmp_path / "captions.csv").write_text("\ufeff" + text, encoding="utf-8")
  assert load(tmp_path).captions == ("π", html, "")


def test_captions_from_jsonl(tmp_path):
  for name in ("a.png", "b.png"):
    save(tmp_path / name)
  lines = [{"file": "b.png", "caption": "</b>\u2028", "score": 1}]
  text = "\n".join(json.dumps(line) for line in lines) + "\n\n"
  (tmp_path / "captions.jsonl").write_text(text)
  assert load(tmp_path).captions == ("", "</b>\u2028")


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("captions.csv", "file,caption\nx.png,hi\n", "line 2: there is no image"),
    ("captions.csv", "file,caption\na.png,1\na.png,2\n", "has a caption alr"),
    ("captions.csv", "name,text\na.png,1\n", "columns are ['name', 'text']"),
    ("captions.csv", "", "columns are []: expected file,caption"),
    ("captions.csv", "file,caption\na.png\n", "line 2: expected a file and"),
    ("captions.jsonl", '{"file": "a.png"}\n', "line 1: expected a file and"),
    ("captions.jsonl", "[1]\n", "line 1: expected a file and"),
    ("captions.jsonl", '\n{"file"\n', "line 2 is not JSON"),
    ("captions.jsonl", '{"file": "../a.png", "caption": ""}', "no image '../a"),
  ],
)
def test_wrong_captions_are_refused(tmp_path, name, content, message):
  save(tmp_path / "a.png")
  (tmp_path / name).write_text(content)
  assert message in refusal(tmp_path)
  assert name in refusal(tmp_path)


def test_captions_that_are_not_utf8_or_twofold_are_refused(tmp_path):
  save(tmp_path / "a.png")
  (tmp_path / "captions.csv").write_bytes(b"file,caption\na.png,\xff\n")
  assert "utf-8" in refusal(tmp_path)
  (tmp_path / "captions.jsonl").touch()
  assert "keep one of them" in refusal(tmp_path)


def test_no_folder_no_images_one_image(tmp_path):
  with pytest.raises(FileNotFoundError, match="no such folder; expected fold"):
    load(tmp_path / "absent")
  with pytest.raises(FileNotFoundError, match="expected folder:PATH"):
    data.load("folder:")
  assert "holds no images among its 0 files" in refusal(tmp_path)
  (tmp_path / "a.txt").touch()
  assert "holds no images among its 1 files" in refusal(tmp_path)
  save(tmp_path / "a.png")
  assert load(tmp_path).images.shape == (1, 6, 6, 3)


def test_corrupt_files_are_named(tmp_path):
  save(tmp_path / "good.png")
  assert len(load(tmp_path)) == 1
  file = io.BytesIO()
  noise = RNG.integers(0, 256, (64, 64, 3), dtype=np.uint8)
  Image.fromarray(noise).save(file, "png")
  (tmp_path / "cut.png").write_bytes(file.getvalue()[:2000])
  file = io.BytesIO()
  Image.fromarray(noise).save(file, "jpeg")
  (tmp_path / "cut.jpg").write_bytes(file.getvalue()[:1000])
  (tmp_path / "empty.png").touch()
  (tmp_path / "text.gif").write_text("GIF, honestly")
  message = refusal(tmp_path)
  assert message.startswith(f"4 of 5 images in {tmp_path} cannot be used: ")
  assert "'cut.jpg' is corrupt (image file is truncated" in message
  assert "'cut.png' is corrupt" in message
  assert "'empty.png' is corrupt (not an image); ...: repair" in message


def test_files_that_need_a_crop_or_one_frame_are_named(tmp_path):
  save(tmp_path / "wide.png", size=(4, 8))
  save(tmp_path / "square.png")
  assert "sizes differ: 'square.png' is 6x6, 'wide.png' is 8x4" in refusal(
    tmp_path
  )
  assert "'wide.png' is 8x4, which resize=4 would squash" in refusal(
    tmp_path, resize=4
  )
  fitted = load(tmp_path, crop="center", resize=4, filter="box")
  assert fitted.images.shape == (2, 4, 4, 3)
  assert fitted.info["crop"] == "center"
  assert (fitted.info["resize"], fitted.info["filter"]) == (4, "box")
  frames = [Image.new("RGB", (6, 6), c) for c in ("red", "blue")]
  frames[0].save(tmp_path / "m.gif", save_all=True, append_images=frames[1:])
  assert "'m.gif' has 2 frames: keep one" in refusal(tmp_path)


def test_links_are_followed_and_loops_refused(tmp_path):
  real = tmp_path / "elsewhere"
  pixels = save(real / "a.png")
  top = tmp_path / "top"
  top.mkdir()
  (top / "cat").symlink_to(real)
  np.testing.assert_array_equal(load(top).images[0], pixels)
  (real / "up").symlink_to(top)
  assert "links to a folder that contains it" in refusal(top)
