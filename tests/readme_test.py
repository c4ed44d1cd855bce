# SPDX-License-Identifier: Apache-2.0
"""The README tells the truth: its commands, paths and names exist."""

import ast
import functools
import re
import shlex

import pytest

from diffmem.bin import program

PROGRAM = "diffmem-"
PAGES = ("README.md", "CONTRIBUTING.md")


@functools.cache
def page(root, name="README.md") -> str:
  return (root / name).read_text(encoding="utf-8")


def commands(text: str) -> list[list[str]]:
  """Every command of the indented blocks, comments off, lines joined."""
  found = []
  text = re.sub(r"```.*?```", "", text, flags=re.DOTALL).replace("\\\n", " ")
  for line in text.splitlines():
    if line.startswith("    "):
      words = shlex.split(line, comments=True)
      if words:
        found.append(words)
  return found


def targets(root) -> set[str]:
  text = (root / "Makefile").read_text(encoding="utf-8")
  return set(re.findall(r"^([a-z-]+):", text, flags=re.MULTILINE))


@pytest.fixture(scope="module")
def programs(setup_arguments) -> dict[str, str]:
  """Console commands and what they call."""
  scripts = setup_arguments["entry_points"]["console_scripts"]
  return dict(re.split(r"\s*=\s*", script) for script in scripts)


def table(text: str, header: str) -> list[list[str]]:
  """Rows of the Markdown table that begins with this header cell."""
  rows = text.partition(f"| {header} |")[2].partition("\n\n")[0]
  lines = rows.splitlines()[2:]
  return [
    [cell.strip() for cell in row.strip("| ").split("|")] for row in lines
  ]


def check_program(root, programs, words: list[str]) -> None:
  """A program's name, its config and every override must exist."""
  assert words[0] in programs, words[0]
  flags = dict(word[2:].split("=", 1) for word in words[1:])
  assert {"config", "workdir"} <= set(flags), words
  path, colon, arg = flags["config"].partition(":")
  path = path if "/" in path else f"configs/{path}"
  config = program.load_config(f"{root}/{path}{colon}{arg}")
  names = [f[len("config.") :] for f in flags if f.startswith("config.")]
  program.check_overrides(config, names)


@pytest.mark.parametrize("name", PAGES)
def test_commands_exist(root, programs, name):
  known = commands(page(root, name))
  assert known
  for words in known:
    if words[0] == "make":
      assert set(words[1:]) <= targets(root), words
    elif words[0] == "bash":
      assert (root / words[1]).is_file(), words
    elif words[0].startswith(PROGRAM):
      check_program(root, programs, words)
    else:
      assert words[0].startswith(".venv/bin/"), words


def test_commands_of_config_docstrings_exist(root, programs):
  for path in (root / "configs").glob("[a-z]*.py"):
    doc = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    lines = [line.strip() for line in (doc or "").splitlines()]
    whole = tuple(
      f"diffmem-{name} " for name in ("audit", "claims", "compare", "plan")
    )
    known = [shlex.split(x) for x in lines if x.startswith(whole)]
    assert known, path
    for words in known:
      check_program(root, programs, words)


def test_one_command_runs_and_one_tests(root):
  first = [words[:2] for words in commands(page(root))[:2]]
  assert first == [["make", "demo"], ["make", "test"]]


def test_ci_calls_the_test_command(root):
  text = (root / ".ci" / "run").read_text(encoding="utf-8")
  lines = [line for line in text.splitlines() if not line.startswith("#")]
  test = " ".join(commands(page(root))[1])
  assert test in lines
  assert "set -euo pipefail" in lines
  assert (root / ".ci" / "run").stat().st_mode & 0o100


def test_stage_table_is_the_programs(root, programs):
  files = {p.stem for p in (root / "diffmem" / "bin").glob("*.py")}
  rows = table(page(root), "command")
  named = {row[0].strip("`") for row in rows}
  assert named == {PROGRAM + f for f in files - {"__init__", "program"}}
  assert set(programs) == named
  for command, target in programs.items():
    assert target == f"diffmem.bin.{command[len(PROGRAM) :]}:start"


def test_map_names_every_folder(root):
  named = {row[0].strip("`") for row in table(page(root), "folder")}
  for path in named:
    assert (root / path).is_dir(), path
  packages = {p.parent.name for p in (root / "diffmem").glob("*/__init__.py")}
  text = page(root)
  for package in packages:
    assert f"`diffmem/{package}/`" in text, package
  for path in (root / "diffmem").glob("[a-z]*.py"):
    assert f"`diffmem/{path.name}`" in text, path.name


@pytest.mark.parametrize("name", PAGES)
def test_links_and_paths_lead_somewhere(root, name):
  text = page(root, name)
  for target in re.findall(r"\]\(([^)]+)\)", text):
    assert target.startswith("https://") or (root / target).exists(), target
  for path in re.findall(
    r"`((?:diffmem|configs|tests|benchmarks)/[^`]*)`", text
  ):
    assert (root / path).exists(), path


def test_python_snippets_run(root):
  snippets = re.findall(r"```python\n(.*?)```", page(root), flags=re.DOTALL)
  assert snippets
  for snippet in snippets:
    names = {}
    exec(compile(snippet, "README.md", "exec"), names)
    assert names["found"].ids.shape == (4, 3)


def test_the_version_stands_in_one_place(root, setup_arguments):
  import diffmem

  assert setup_arguments["version"] == diffmem.__version__
  text = (root / "CHANGELOG.md").read_text(encoding="utf-8")
  assert f"## {diffmem.__version__}" in text
