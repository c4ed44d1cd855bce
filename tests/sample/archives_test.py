# SPDX-License-Identifier: Apache-2.0
"""Zip and tar: nothing is unpacked, and every name is only text."""

import csv
import io
import os
import stat
import tarfile
import warnings
import zipfile

import numpy as np
import pytest
from PIL import Image

import diffmem
from diffmem.sample import archives, imports, records

RNG = np.random.default_rng(0)
NAMES = (
  "../../evil.png",
  "/etc/absolute.png",
  "C:\\windows\\x.png",
  "<img src=x onerror=alert(1)>.png",
  "$(touch gone);`id`.png",
  "a\nb.png",
  "deep/er/é.png",
)


def noise(*shape):
  return RNG.integers(0, 256, shape, dtype=np.uint8)


def encoded(pixels):
  file = io.BytesIO()
  Image.fromarray(pixels).save(file, "png")
  return file.getvalue()


def bring(root, path, **options):
  defaults = dict(prompts=None, crop="none", resize=None, filter="lanczos")
  sample = {"path": str(path), **defaults, "max_pixels": 2**20, "batch": 4}
  imports.run(root, sample=sample | options, progress=False)
  return diffmem.open_bank(root)


def left_out(root):
  with (root / "sample" / "left_out.csv").open(newline="") as f:
    return [tuple(row) for row in csv.reader(f)][1:]


def make(path, files):
  """An archive of (name, bytes), by the suffix of the path."""
  if path.suffix == ".zip":
    with zipfile.ZipFile(path, "w") as archive, warnings.catch_warnings():
      warnings.simplefilter("ignore")  # doubled names
      for name, content in files:
        archive.writestr(zipfile.ZipInfo(name), content)
    return path
  with tarfile.open(path, "w:gz" if path.suffix != ".tar" else "w") as archive:
    for name, content in files:
      entry = tarfile.TarInfo(name)
      entry.size = len(content)
      archive.addfile(entry, io.BytesIO(content))
  return path


ARCHIVES = ("a.zip", "a.tar", "a.tar.gz", "a.tgz")


@pytest.mark.parametrize("kind", ARCHIVES)
def test_hostile_names_are_only_text(tmp_path, kind):
  before = set(os.listdir("/etc")), set(os.listdir(tmp_path.parent))
  pixels = [noise(4, 4, 3) for _ in NAMES]
  files = list(zip(NAMES, map(encoded, pixels), strict=True))
  path = make(tmp_path / kind, files)
  work = tmp_path / "one" / "work"
  bank = bring(work, path)
  assert bank.names == NAMES
  np.testing.assert_array_equal(bank[:], np.stack(pixels))
  assert left_out(work) == []
  assert {*os.listdir(tmp_path)} == {kind, "one"}
  assert os.listdir(tmp_path / "one") == ["work"]
  after = set(os.listdir("/etc")), set(os.listdir(tmp_path.parent))
  assert after == before
  assert not list(tmp_path.rglob("*.png"))
  assert bank.meta["source"]["kind"] == kind.split(".")[1].replace("tgz", "tar")


@pytest.mark.parametrize("kind", ARCHIVES)
def test_doubled_names_and_huge_entries_are_listed(tmp_path, kind, monkeypatch):
  monkeypatch.setattr(archives, "MAX_BYTES", 5000)
  first = noise(4, 4, 3)
  files = [
    ("a.png", encoded(first)),
    ("a.png", encoded(noise(4, 4, 3))),
    ("zeros.png", b"\0" * 5001),
    ("__MACOSX/._a.png", b"x"),
    ("cut.png", encoded(noise(4, 4, 3))[:-30]),
  ]
  work = tmp_path / "work"
  bank = bring(work, make(tmp_path / kind, files))
  np.testing.assert_array_equal(bank[:], first[None])
  assert left_out(work)[:3] == [
    ("a.png", "is a second entry of this name"),
    ("zeros.png", "has 5001 bytes: no image is that large"),
    ("__MACOSX/._a.png", "is a hidden file"),
  ]
  ((name, why),) = left_out(work)[3:]
  assert name == "cut.png"
  assert "is corrupt" in why
  assert bank.meta["counts"]["left_out_by_reason"] == {
    "doubled name": 1, "huge": 1, "hidden": 1, "damaged": 1,
  }  # fmt: skip


def test_a_zip_bomb_is_not_unpacked(tmp_path, monkeypatch):
  """What is small in the archive and large outside is left out by its size."""
  monkeypatch.setattr(archives, "MAX_BYTES", 2**25 - 1)
  path = tmp_path / "a.zip"
  with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
    with archive.open("bomb.png", "w", force_zip64=True) as f:
      for _ in range(2):
        f.write(b"\0" * 2**24)
    archive.writestr("a.png", encoded(noise(4, 4, 3)))
  assert path.stat().st_size < 2**17
  bank = bring(tmp_path / "work", path)
  assert bank.names == ("a.png",)
  ((name, why),) = left_out(tmp_path / "work")
  assert (name, "no image is that large" in why) == ("bomb.png", True)


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz"])
def test_links_and_devices_in_a_tar_are_left_out(tmp_path, kind):
  secret = tmp_path / "secret.png"
  secret.write_bytes(encoded(noise(4, 4, 3)))
  path = tmp_path / kind
  kinds = {
    "symbolic.png": tarfile.SYMTYPE,
    "hard.png": tarfile.LNKTYPE,
    "device.png": tarfile.CHRTYPE,
    "pipe.png": tarfile.FIFOTYPE,
  }
  with tarfile.open(path, "w:gz" if kind != "a.tar" else "w") as archive:
    for name, type_ in kinds.items():
      entry = tarfile.TarInfo(name)
      entry.type, entry.linkname = type_, str(secret)
      archive.addfile(entry)
    archive.add(secret, "a.png")
  bank = bring(tmp_path / "work", path)
  assert bank.names == ("a.png",)
  assert dict(left_out(tmp_path / "work")) == dict.fromkeys(
    kinds, "is a link or a device, not a file"
  )


def test_links_and_encrypted_entries_in_a_zip_are_left_out(tmp_path):
  path = tmp_path / "a.zip"
  with zipfile.ZipFile(path, "w") as archive:
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    archive.writestr(link, "/etc/passwd")
    archive.writestr("secret.png", b"x" * 20)
    archive.writestr("a.png", encoded(noise(4, 4, 3)))
  content = bytearray(path.read_bytes())
  at = content.index(b"PK\x01\x02", content.index(b"PK\x01\x02") + 1)
  content[at + 8] |= 1  # the flag of encryption, in the directory
  path.write_bytes(content)
  assert bring(tmp_path / "work", path).names == ("a.png",)
  assert dict(left_out(tmp_path / "work")) == {
    "link.png": "is a link or a device, not a file",
    "secret.png": "is encrypted",
  }


@pytest.mark.parametrize("kind", ["a.tar", "a.tar.gz"])
@pytest.mark.parametrize("how", ["cut", "header"])
def test_of_a_damaged_tar_the_rest_is_kept(tmp_path, kind, how):
  pixels = [noise(16, 16, 3) for _ in range(4)]
  files = [(f"{i}.png", encoded(x)) for i, x in enumerate(pixels)]
  path = make(tmp_path / "a.tar", files)
  with tarfile.open(path) as archive:
    third = archive.getmember("2.png")
  content = bytearray(path.read_bytes())
  if how == "cut":
    content = content[: third.offset_data + 30]
  else:
    content[third.offset : third.offset + 200] = b"?" * 200
  path.write_bytes(content)
  if kind == "a.tar.gz":
    import gzip

    packed = gzip.compress(bytes(content))
    path = tmp_path / kind
    path.write_bytes(packed)
  bank = bring(tmp_path / "work", path)
  np.testing.assert_array_equal(bank[:], np.stack(pixels[:2]))
  found = dict(left_out(tmp_path / "work"))
  assert "is damaged after" in found[kind]
  assert ("2.png" in found) == (how == "cut")


def test_a_gzip_that_ends_too_early(tmp_path):
  pixels = [noise(32, 32, 3) for _ in range(6)]
  files = [(f"{i}.png", encoded(x)) for i, x in enumerate(pixels)]
  path = make(tmp_path / "a.tar.gz", files)
  path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
  bank = bring(tmp_path / "work", path)
  assert 1 <= len(bank) <= 4
  np.testing.assert_array_equal(bank[:], np.stack(pixels[: len(bank)]))
  found = dict(left_out(tmp_path / "work"))
  assert "is damaged after" in found["a.tar.gz"]


def test_a_damaged_entry_of_a_zip_is_left_out(tmp_path):
  pixels = [noise(16, 16, 3) for _ in range(3)]
  files = [(f"{i}.png", encoded(x)) for i, x in enumerate(pixels)]
  path = make(tmp_path / "a.zip", files)
  content = bytearray(path.read_bytes())
  at = content.index(files[1][1]) + len(files[1][1]) - 25
  content[at] ^= 255
  path.write_bytes(content)
  bank = bring(tmp_path / "work", path)
  assert bank.names == ("0.png", "2.png")
  ((name, why),) = left_out(tmp_path / "work")
  assert name == "1.png"
  assert records.kind(why) == "damaged"


@pytest.mark.parametrize("kind", ARCHIVES)
def test_what_is_no_archive_is_refused(tmp_path, kind):
  (tmp_path / kind).write_bytes(b"not an archive at all" * 100)
  with pytest.raises(ValueError, match="is not a readable") as error:
    bring(tmp_path / "work", tmp_path / kind)
  assert "\n" not in str(error.value)
  (tmp_path / kind).write_bytes(b"")
  with pytest.raises(ValueError, match="is not a readable"):
    bring(tmp_path / "work", tmp_path / kind)
  assert not (tmp_path / "work").exists()


def test_headers_of_a_tar_cannot_ask_for_gigabytes(tmp_path):
  entry = tarfile.TarInfo("././@PaxHeader")
  entry.type, entry.size = tarfile.XHDTYPE, 2**32
  path = make(tmp_path / "a.tar", [("a.png", encoded(noise(4, 4, 3)))])
  head = entry.tobuf(tarfile.USTAR_FORMAT)
  content = path.read_bytes()
  (tmp_path / "b.tar").write_bytes(content[:1024] + head + b"\0" * 1024)
  assert bring(tmp_path / "work", tmp_path / "b.tar").names == ("a.png",)
  (why,) = [why for name, why in left_out(tmp_path / "work") if name == "b.tar"]
  assert "a header of" in why


@pytest.mark.parametrize("kind", ARCHIVES)
def test_a_changed_archive_is_refused(tmp_path, kind):
  files = [(f"{i}.png", encoded(noise(4, 4, 3))) for i in range(3)]
  path = make(tmp_path / kind, files)
  bring(tmp_path / "work", path)
  make(path, files)  # with the same contents: kept
  assert len(bring(tmp_path / "work", path)) == 3
  make(path, [*files[:2], ("2.png", encoded(noise(5, 5, 3)))])
  with pytest.raises(ValueError, match="was made with its input 'source'"):
    bring(tmp_path / "work", path)


@pytest.mark.parametrize("layout", ["beside", "folders"])
def test_a_folder_of_tars(tmp_path, layout):
  """Shards as img2dataset writes them: keys may come again in each."""
  given, pixels, texts = tmp_path / "given", [], []
  given.mkdir()
  for shard in ("00000.tar", "00001.tar.gz"):
    files = []
    for i in range(3):
      pixels.append(noise(4, 4, 3))
      texts.append(
        f"p{i % 2} of {shard}" if layout == "beside" else f"p{i % 2}"
      )
      content = encoded(pixels[-1])
      if layout == "beside":
        files += [(f"{i}.png", content), (f"{i}.txt", texts[-1].encode())]
      else:
        files.append((f"p{i % 2}/{i}.png", content))
    make(given / shard, [*files, ("cut.png", b"")])
  (given / "00000_stats.json").write_text("{}")
  bank = bring(tmp_path / "work", given)
  np.testing.assert_array_equal(bank[:], np.stack(pixels))
  assert [bank.prompts[i] for i in bank.prompt_ids] == texts
  assert bank.names[3].startswith("00001.tar.gz/")
  assert len(set(bank.names)) == 6
  assert dict(left_out(tmp_path / "work")).keys() == {
    "00000_stats.json",
    "00000.tar/cut.png",
    "00001.tar.gz/cut.png",
  }
  make(given / "00001.tar.gz", [("0.png", encoded(noise(4, 4, 3)))])
  with pytest.raises(ValueError, match="was made with its input 'source'"):
    bring(tmp_path / "work", given)
