# SPDX-License-Identifier: Apache-2.0
import pytest

from diffmem.sample import prompts

TEXTS = ("a cat", "", ' "quoted", <b>', "a dog")


@pytest.mark.parametrize(
  ("name", "content"),
  [
    ("p.txt", 'a cat\n\n "quoted", <b>\na dog\n'),
    ("p.txt", '\ufeffa cat\r\n\r\n "quoted", <b>\r\na dog'),
    ("p.jsonl", '"a cat"\n{"prompt": ""}\n\n{"text": " \\"quoted\\", <b>"}\n'
     '{"n": 1, "caption": "a dog"}\n'),
    ("p.csv", 'n,prompt\n1,a cat\n2,\n3," ""quoted"", <b>"\n4,a dog\n'),
    ("p.json", '["a cat", "", " \\"quoted\\", <b>", "a dog"]'),
  ],
)  # fmt: skip
def test_every_kind_of_file(tmp_path, name, content):
  (tmp_path / name).write_bytes(content.encode())
  assert prompts.read(tmp_path / name) == (TEXTS, 0)


def test_repeated_prompts_keep_their_first_place(tmp_path):
  (tmp_path / "p.txt").write_text("b\na\nb\na \na\n")
  assert prompts.read(tmp_path / "p.txt") == (("b", "a", "a "), 2)


@pytest.mark.parametrize(
  ("name", "content", "message"),
  [
    ("p.txt", b"", "p.txt is empty"),
    ("p.csv", b"", "p.csv is empty"),
    ("p.csv", b"prompt\n", "p.csv is empty"),
    ("p.jsonl", b"\n", "p.jsonl is empty"),
    ("p.json", b"[]", "p.json is empty"),
    ("p.json", b"{}", "expected a list"),
    ("p.txt", b"caf\xe9\n", "is not UTF-8"),
    ("p.jsonl", b'"a"\n{"a": 1}\n', "line 2: 'None' is no text"),
    ("p.jsonl", b'{"prompt": 3}\n', "line 1: '3' is no text"),
    ("p.jsonl", b"{\n", "line 1 is not valid JSON"),
    ("p.csv", b"a,b\n1,2\n", "columns a, b; expected one called prompt or"),
    ("p.csv", b"a,prompt\n1\n", "line 2: 'None' is no text"),
    ("p.md", b"a\n", "expected a file named .txt, .jsonl, .csv, .json"),
  ],
)
def test_what_is_no_prompt_is_refused(tmp_path, name, content, message):
  (tmp_path / name).write_bytes(content)
  with pytest.raises(ValueError, match=message):
    prompts.read(tmp_path / name)
