# SPDX-License-Identifier: Apache-2.0
"""A tar is read as the folder of the same files is."""

import io
import json
import tarfile

import numpy as np
import pytest
from PIL import Image

from diffmem import data

RNG = np.random.default_rng(2)


def png(channels=3):
  pixels = RNG.integers(0, 256, (6, 6, channels), dtype=np.uint8)
  out = io.BytesIO()
  Image.fromarray(pixels.squeeze()).save(out, "PNG")
  return out.getvalue()


def files():
  return {
    "b/2.png": png(),
    "b/2.txt": b" a bee \n",
    "a/1.jpg": png(),
    "a/1.json": json.dumps({"caption": "π", "width": 6}).encode(),
    "b/3.png": png(1),
    "b/3.json": b"[1]",
    "b/3.cls": b"4",
    ".hidden.png": b"",
  }


def pack(path, content, mode="w"):
  with tarfile.open(path, mode) as archive:
    for name, value in content.items():
      entry = tarfile.TarInfo(name)
      entry.size = len(value)
      archive.addfile(entry, io.BytesIO(value))
    link = tarfile.TarInfo("link.png")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    archive.addfile(link)


def unpack(folder, content):
  for name, value in content.items():
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_bytes(value)


@pytest.mark.parametrize(("name", "mode"), [("x.tar", "w"), ("x.tgz", "w:gz")])
def test_equals_the_folder(tmp_path, name, mode):
  content = files()
  pack(tmp_path / name, content, mode)
  unpack(tmp_path / "folder", content)
  packed = data.load(f"tar:{tmp_path / name}")
  plain = data.load(f"folder:{tmp_path / 'folder'}")
  assert packed.names == plain.names == ("a/1.jpg", "b/2.png", "b/3.png")
  assert packed.captions == plain.captions == ("π", "a bee", "")
  np.testing.assert_array_equal(packed.labels, [0, 1, 1])
  same = ("sha256", "annotations_sha256", "caption_file", "ignored_files")
  for key in same:
    assert packed.info[key] == plain.info[key], key
  assert packed.info["caption_file"] == "files beside images"
  assert packed.info["ignored_files"] == 3


def test_a_list_comes_before_files_beside_images(tmp_path):
  content = files()
  rows = [{"file_name": "b/3.png", "text": "three"}]
  content["metadata.jsonl"] = json.dumps(rows[0]).encode()
  pack(tmp_path / "x.tar", content)
  unpack(tmp_path / "folder", content)
  for source in (f"tar:{tmp_path / 'x.tar'}", f"folder:{tmp_path / 'folder'}"):
    made = data.load(source)
    assert made.captions == ("", "", "three")
    assert made.info["caption_file"] == "metadata.jsonl"


def test_a_folder_of_tars(tmp_path):
  first, second = files(), files()
  pack(tmp_path / "00.tar", first)
  pack(tmp_path / "01.tar", second)
  (tmp_path / "notes.md").write_text("no tar")
  made = data.load(f"tar:{tmp_path}")
  assert made.names[0] == "00.tar/a/1.jpg"
  assert made.captions == ("π", "a bee", "") * 2
  assert len(made) == 6


@pytest.mark.parametrize(
  ("content", "message"),
  [
    ({"a.txt": b"x"}, "holds no images among its 1 files"),
    ({"a.png": b"x"}, "1 of 1 images in .* cannot be used: 'a.png' is corrupt"),
    ({"a.png": png(), "a.txt": b"\xff"}, "a.txt is no text in UTF-8"),
    ({"a.png": png(), "a.json": b"{"}, "a.json is no text in UTF-8"),
    (
      {"a.png": png(), "captions.csv": b"file,caption\nb.png,x\n"},
      "captions.csv: line 2: there is no image 'b.png'",
    ),
  ],
)
def test_bad_tars_are_refused(tmp_path, content, message):
  pack(tmp_path / "x.tar", content)
  with pytest.raises(ValueError, match=message):
    data.load(f"tar:{tmp_path / 'x.tar'}")


def test_what_is_no_tar_is_refused(tmp_path):
  (tmp_path / "x.tar").write_bytes(b"no tar" * 200)
  with pytest.raises(ValueError, match="is no tar that can be read"):
    data.load(f"tar:{tmp_path / 'x.tar'}")
  with pytest.raises(FileNotFoundError, match="no such file or folder"):
    data.load(f"tar:{tmp_path / 'y.tar'}")
