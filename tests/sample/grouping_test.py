# SPDX-License-Identifier: Apache-2.0
"""Which prompt made which image."""

import csv
import io
import json
import tarfile
import zipfile

import numpy as np
import pytest
from PIL import Image

import diffmem
from diffmem.sample import imports

FILE = io.BytesIO()
Image.new("RGB", (2, 2)).save(FILE, "png")
PNG = FILE.getvalue()


def make(path, files):
  """A folder, zip or tar of {name: bytes}."""
  if path.suffix == ".zip":
    with zipfile.ZipFile(path, "w") as archive:
      for name, content in files.items():
        archive.writestr(name, content)
  elif path.suffix == ".tar":
    with tarfile.open(path, "w") as archive:
      for name, content in files.items():
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive.addfile(entry, io.BytesIO(content))
  else:
    for name, content in files.items():
      (path / name).parent.mkdir(parents=True, exist_ok=True)
      (path / name).write_bytes(content)
  return path


def bring(root, path, prompts=None):
  sample = dict(path=str(path), prompts=prompts and str(prompts), crop="none")
  sample |= dict(resize=None, filter="box", max_pixels=2**20, batch=64)
  imports.run(root, sample=sample, progress=False)
  return diffmem.open_bank(root)


def found(bank):
  """{name: prompt} of a bank."""
  if bank.prompts is None:
    return None
  texts = [None if i < 0 else bank.prompts[i] for i in bank.prompt_ids]
  return dict(zip(bank.names, texts, strict=True))


def left_out(root):
  with (root / "sample" / "left_out.csv").open(newline="") as f:
    return dict(list(csv.reader(f))[1:])


def table(*rows):
  f = io.StringIO(newline="")
  csv.writer(f).writerows(rows)
  return f.getvalue().encode()


def lines(*rows):
  return "\n".join(map(json.dumps, rows)).encode()


@pytest.fixture
def work(tmp_path):
  return tmp_path / "work"


KINDS = ("given", "given.zip", "given.tar")


@pytest.mark.parametrize("kind", KINDS)
def test_sub_folders(work, tmp_path, kind):
  files = {"cat/1.png": PNG, "a <b>/x/2.png": PNG, "loose.png": PNG}
  bank = bring(work, make(tmp_path / kind, files))
  assert found(bank) == {
    "cat/1.png": "cat",
    "a <b>/x/2.png": "a <b>",
    "loose.png": None,
  }
  said = bank.meta["prompts"]
  assert (said["from"], said["images_without"]) == ("sub-folders", 1)
  assert said["images"] == [1, 1.0, 1]


def test_no_prompts(work, tmp_path):
  bank = bring(work, make(tmp_path / "given", {"1.png": PNG, "2.png": PNG}))
  assert found(bank) is None
  assert not (work / "sample" / "prompts.json").exists()
  assert bank.meta["prompts"] == {"from": "none", "count": 0}


def test_an_only_top_folder_of_an_archive_is_no_prompt(work, tmp_path):
  files = {"all/cat/1.png": PNG, "all/dog/2.png": PNG}
  bank = bring(work, make(tmp_path / "a.zip", files))
  assert bank.prompts == ("cat", "dog")
  dotted = {f"./{name}": content for name, content in files.items()}
  bank = bring(tmp_path / "a", make(tmp_path / "a.tar", dotted))
  assert bank.prompts == ("cat", "dog")
  assert bank.names == tuple(files)
  bank = bring(tmp_path / "b", make(tmp_path / "b.zip", {"cat/1.png": PNG}))
  assert bank.prompts == ("cat",)
  bank = bring(tmp_path / "c", make(tmp_path / "c", files))
  assert bank.prompts == ("all",)


def test_web_dataset(work, tmp_path):
  files = {
    "shard/0001.png": PNG,
    "shard/0001.txt": "π <script>\n".encode(),
    "shard/0002.seed7.png": PNG,
    "shard/0002.json": json.dumps({"caption": "", "width": 2}).encode(),
    "shard/0003.png": PNG,
    "shard/0003.json": json.dumps({"prompt": "p", "caption": "c"}).encode(),
    "shard/0004.png": PNG,
    "shard/0004.json": b"{no json",
    "shard/0005.png": PNG,
    "shard/0005.txt": b"\xff",
    "shard/0006.png": PNG,
    "shard/0007.json": b"{}",
  }
  bank = bring(work, make(tmp_path / "a.tar", files))
  assert found(bank) == {
    "shard/0001.png": "π <script>",
    "shard/0002.seed7.png": "",
    "shard/0003.png": "p",
    "shard/0004.png": None,
    "shard/0005.png": None,
    "shard/0006.png": None,
  }
  said = bank.meta["prompts"]
  assert said["from"] == "captions beside the images"
  assert (said["count"], said["images_without"]) == (3, 3)
  assert left_out(work).keys() == {
    "shard/0004.json",
    "shard/0005.txt",
    "shard/0007.json",
  }
  assert "gives no prompt" in left_out(work)["shard/0004.json"]


def test_captions_beside_images_in_a_folder(work, tmp_path):
  files = {"1.png": PNG, "1.txt": b" a  cat ", "2.png": PNG, "2.txt": b""}
  given = make(tmp_path / "given", files)
  bank = bring(work, given)
  assert found(bank) == {"1.png": " a  cat ", "2.png": ""}
  assert left_out(work) == {}
  assert found(bring(tmp_path / "none", given, "none")) is None


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["captions.csv", "metadata.jsonl"])
def test_a_list_at_the_top_is_found(work, tmp_path, kind, name):
  html = '<script>alert("x")</script>, said\n"he"'
  rows = [("a/1.png", html), ("./b/2.png", ""), ("a/1.png", html)]
  rows.append(("gone/3.png", "x"))
  if name.endswith("csv"):
    content = b"\xef\xbb\xbf" + table(("file", "n", "prompt"), *(
      (file, "1", text) for file, text in rows))  # fmt: skip
  else:
    content = b"\xef\xbb\xbf" + lines(
      *({"file_name": file, "text": text} for file, text in rows)
    )
  files = {"a/1.png": PNG, "b/2.png": PNG, "b/3.png": PNG, name: content}
  bank = bring(work, make(tmp_path / kind, files))
  assert found(bank) == {"a/1.png": html, "b/2.png": "", "b/3.png": None}
  assert set(bank.prompts) == {html, ""}
  assert bank.meta["prompts"]["from"] == name
  assert bank.meta["counts"]["repeated_prompt_rows"] == 1
  assert bank.meta["counts"]["left_out_by_reason"] == {"listed but absent": 1}
  assert left_out(work) == {
    "gone/3.png": f"is named in {name}, but is not there"
  }


def test_a_list_that_is_named(work, tmp_path):
  files = {"top/a/1.png": PNG, "top/a/2.png": PNG, "top/cut.png": b""}
  given = make(tmp_path / "given.zip", files)
  listed = tmp_path / "list.jsonl"
  listed.write_bytes(
    lines(
      {"name": "a/1.png", "prompt": "one"},  # below the only top folder
      {"name": "top\\a\\2.png", "prompt": "half \ud800 a pair"},
      {"name": "top/cut.png", "prompt": "lost"},
    )
  )
  bank = bring(work, given, listed)
  assert found(bank) == {
    "top/a/1.png": "one",
    "top/a/2.png": "half \\ud800 a pair",
  }
  assert left_out(work).keys() == {"top/cut.png"}
  assert bank.meta["prompts"]["from"] == str(listed)
  listed.write_text(listed.read_text().replace("one", "two"))
  with pytest.raises(ValueError, match="was made with its input 'prompts'"):
    bring(work, given, listed)


def test_names_in_a_list_may_be_absolute(work, tmp_path):
  given = make(tmp_path / "given", {"1.png": PNG})
  listed = tmp_path / "list.csv"
  listed.write_bytes(table(("prompt", "path"), ("x", given / "1.png")))
  assert found(bring(work, given, listed)) == {"1.png": "x"}


def test_a_prompt_whose_images_are_all_left_out(work, tmp_path):
  cut = PNG[: PNG.index(b"IDAT") + 6]
  files = {"a/1.png": PNG, "b/2.png": cut, "c/3.png": PNG}
  bank = bring(work, make(tmp_path / "given", files))
  assert bank.prompts == ("a", "c")
  assert bank.prompt_ids.tolist() == [0, 1]
  assert bank.meta["prompts"]["without_images"] == 1


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    (
      "l.csv",
      table(("file", "prompt"), ("1.png", "a"), ("1.png", "b")),
      "line 3 gives '1.png' the prompt 'b', a line above gave it 'a': keep",
    ),
    ("l.csv", table(("file", "prompt"), ("9.png", "a")), "names none of the 2"),
    ("l.csv", table(("file", "prompt")), "names none of the 2 images"),
    ("l.csv", table(("a", "b"), (1, 2)), "columns are ['a', 'b']: expected"),
    ("l.csv", b"file,prompt\n1.png\n", "line 2: expected a file and its prom"),
    ("l.csv", b"file,prompt\n1.png,\xff\n", "utf-8"),
    ("l.jsonl", b'{"file": "1.png"}', "line 1: expected a file and its pr"),
    ("l.jsonl", b'{"file": "1.png", "prompt": 3}', "line 1: expected a file"),
    ("l.jsonl", b"[]", "line 1: expected a file and its prompt"),
    ("l.jsonl", b"\n{", "line 2 is not JSON"),
    ("l.txt", b"a\nb\n", "expected a .csv or .jsonl file"),
  ],
)
def test_wrong_lists_are_refused(work, tmp_path, name, content, message):
  given = make(tmp_path / "given", {"1.png": PNG, "2.png": PNG})
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError) as error:
    bring(work, given, tmp_path / name)
  assert message in str(error.value)
  assert name in str(error.value)
  assert "\n" not in str(error.value)
  assert not work.exists()


def test_several_lists_or_none_are_refused(work, tmp_path):
  rows = table(("file", "prompt"), ("1.png", "a"))
  files = {"1.png": PNG, "prompts.csv": rows, "captions.csv": rows}
  given = make(tmp_path / "given", files)
  with pytest.raises(ValueError, match=r"captions\.csv and prompts\.csv: n"):
    bring(work, given)
  with pytest.raises(FileNotFoundError, match="no such file; expected"):
    bring(work, given, tmp_path / "absent.csv")
  with pytest.raises(ValueError, match="no image has its prompt there"):
    bring(work, given, "folders")
  bank = bring(work, given, given / "prompts.csv")
  assert found(bank) == {"1.png": "a"}
  assert left_out(work).keys() == {"captions.csv"}


def test_numbering_follows_the_images():
  prompts, ids = imports.grouping.number(["b", None, "", "b", "a", ""])
  assert prompts == ["b", "", "a"]
  np.testing.assert_array_equal(ids, [0, -1, 1, 0, 2, 1])
