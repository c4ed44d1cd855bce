# SPDX-License-Identifier: Apache-2.0
"""Notebooks are clean: a badge, no outputs, small, on public modules alone.

They are run whole by `tests/slow/colabs_test.py`.
"""

import ast
import json
import pathlib
import re

import pytest

FOLDER = pathlib.Path(__file__).parent.parent / "colabs"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
REPOSITORY = "diffmem/diffmem"
BADGE = (
  "[![Open In Colab]"
  "(https://colab.research.google.com/assets/colab-badge.svg)]"
  f"(https://colab.research.google.com/github/{REPOSITORY}/blob/main/colabs/"
)
IMPORTS = {
  *("csv", "json", "sys", "tempfile"),
  *("diffmem", "jax", "matplotlib", "numpy"),
}


def source(cell: dict) -> str:
  return "".join(cell["source"])


def imported(tree: ast.Module) -> set[str]:
  """Top-level packages that a cell imports."""
  names = set()
  for node in ast.walk(tree):
    if isinstance(node, ast.Import):
      names |= {alias.name for alias in node.names}
    elif isinstance(node, ast.ImportFrom):
      assert not node.level
      names.add(node.module or "")
  return {name.partition(".")[0] for name in names}


@pytest.fixture(params=NOTEBOOKS, ids=lambda path: path.stem)
def path(request) -> pathlib.Path:
  return request.param


@pytest.fixture
def notebook(path) -> dict:
  return json.loads(path.read_text(encoding="utf-8"))


@pytest.fixture
def codes(notebook) -> list[str]:
  return [source(c) for c in notebook["cells"] if c["cell_type"] == "code"]


def test_there_are_notebooks_and_nothing_else():
  files = [p.name for p in FOLDER.iterdir() if not p.name.startswith(".")]
  assert NOTEBOOKS
  assert sorted(files) == [path.name for path in NOTEBOOKS]
  numbers = [int(path.stem.partition("_")[0]) for path in NOTEBOOKS]
  assert numbers == list(range(1, len(numbers) + 1))


def test_the_format_is_nbformat_4_with_ids(notebook):
  assert (notebook["nbformat"], notebook["nbformat_minor"]) == (4, 5)
  assert set(notebook) == {"cells", "metadata", "nbformat", "nbformat_minor"}
  assert notebook["metadata"]["kernelspec"]["name"] == "python3"
  ids = [cell["id"] for cell in notebook["cells"]]
  assert len(set(ids)) == len(ids)
  for cell in notebook["cells"]:
    assert re.fullmatch(r"[a-zA-Z0-9_-]{1,64}", cell["id"])
    assert cell["cell_type"] in ("code", "markdown")
    keys = {"cell_type", "id", "metadata", "source"}
    if cell["cell_type"] == "code":
      keys |= {"execution_count", "outputs"}
    assert set(cell) == keys
    assert all(isinstance(line, str) for line in cell["source"])
    assert source(cell).strip()


def test_outputs_are_stripped(notebook):
  for cell in notebook["cells"]:
    assert cell.get("outputs", []) == [], cell["id"]
    assert cell.get("execution_count") is None, cell["id"]
    assert cell["metadata"] == {}, cell["id"]


def test_it_opens_with_a_title_and_its_own_badge(path, notebook):
  first = source(notebook["cells"][0])
  assert notebook["cells"][0]["cell_type"] == "markdown"
  assert first.startswith("# ")
  assert f"{BADGE}{path.name})" in first


def test_it_installs_from_the_repository_in_colab_alone(codes):
  body = ast.parse(codes[0]).body
  assert isinstance(body[0], ast.Import)
  assert isinstance(body[1], ast.If)
  assert len(body) == 2
  assert ast.unparse(body[1].test) == "'google.colab' in sys.modules"
  assert f"git+https://github.com/{REPOSITORY}" in ast.unparse(body[1])
  for code in codes[1:]:
    assert "get_ipython" not in code
    assert "google" not in code


def test_cells_are_plain_python_on_public_modules(codes):
  for code in codes:
    tree = ast.parse(code)  # a magic is no Python
    assert imported(tree) <= IMPORTS
    for node in ast.walk(tree):
      private = isinstance(node, ast.Attribute) and node.attr.startswith("_")
      assert not private, ast.unparse(node)
      assert not isinstance(node, ast.ClassDef)


def test_no_path_of_a_machine(notebook):
  for cell in notebook["cells"]:
    text = source(cell)
    found = re.findall(r"(?<![\w.:/~])(?:~|[A-Z]:\\|/)[\w.]+/[\w./]*", text)
    assert not found, (cell["id"], found)
