# SPDX-License-Identifier: Apache-2.0
"""Imports flow one way: the rank table of the architecture, asserted."""

import ast
import itertools
import pathlib
import re
import subprocess
import sys

import pytest

CHAIN = (
  "args",
  "arrays",
  "keys",
  "stats",
  "retry",
  "buckets",
  "lease",
  "lock",
  "processes",
  "workdir",
  "progress",
  "mesh",
  "store",
  "checkpoint",
)
LAYERS = (
  ("data", "models", "diffusion", "distances"),
  ("denoiser", "features"),
  ("train", "sample", "quality"),
  ("extraction", "membership"),
  ("report",),
  ("audit",),
  ("bin",),
)
# Position in this order; an import must go to a lower number. In the chain
# every module is its own rank, in a layer siblings share one.
RANK = {name: i for i, name in enumerate(CHAIN)} | {
  name: len(CHAIN) + i for i, layer in enumerate(LAYERS) for name in layer
}
OUTSIDE = {"configs", "launch", "colabs", "tests", "benchmarks"}
FLAGS = {"ml_collections", "absl.flags", "absl.app"}


def imported(source: str, module: str, is_package: bool) -> list[str]:
  """Every dotted name a module imports, at any depth, relative resolved."""
  names = []
  for node in ast.walk(ast.parse(source)):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      base = node.module or ""
      if node.level:
        parts = module.split(".")
        parts = parts[: len(parts) - node.level + is_package]
        base = ".".join([*parts, base] if base else parts)
      names += [f"{base}.{alias.name}" for alias in node.names]
  return names


def violations(source: str, module: str, is_package: bool = False) -> list[str]:
  """What a module imports against the rules, as sentences."""
  found = []
  here = module.split(".")[1]
  for name in imported(source, module, is_package):
    parts = name.split(".")
    if parts[0] in OUTSIDE or name.startswith("diffmem.configs"):
      found.append(f"{module} imports {name}: it stands outside the package")
    if here != "bin" and any(
      name == flag or name.startswith(flag + ".") for flag in FLAGS
    ):
      found.append(f"{module} imports {name}: flags and configs stop at bin")
    if parts[0] != "diffmem" or len(parts) < 2 or parts[1] == here:
      continue
    if parts[1] in RANK:
      if RANK[parts[1]] >= RANK[here]:
        found.append(f"{module} imports {name}: not below {here}")
    elif parts[1] != "__version__":
      found.append(f"{module} imports {name}: {parts[1]} has no rank")
  return found


def modules(root: pathlib.Path) -> list[tuple[str, pathlib.Path]]:
  """(dotted name, file) of every module below the package's first level."""
  found = []
  for path in sorted((root / "diffmem").rglob("*.py")):
    parts = path.relative_to(root).with_suffix("").parts
    found.append((".".join(parts), path))
  return [(name, path) for name, path in found if name != "diffmem.__init__"]


def test_every_module_has_a_rank(root):
  known = {name.split(".")[1] for name, _ in modules(root)}
  assert known <= set(RANK), f"give a rank to {sorted(known - set(RANK))}"


def test_imports_flow_one_way(root):
  found = []
  for name, path in modules(root):
    package = name.endswith(".__init__")
    name = name.removesuffix(".__init__")
    found += violations(path.read_text(encoding="utf-8"), name, package)
  assert not found, "\n".join(found)


def test_configs_import_only_their_two_modules(root):
  for path in sorted((root / "configs").glob("*.py")):
    source = path.read_text(encoding="utf-8")
    for name in imported(source, f"configs.{path.stem}", False):
      assert name.split(".")[0] in ("ml_collections", "diffmem"), name
      assert name.split(".")[0] != "diffmem" or name == "diffmem.args", name


@pytest.mark.parametrize(
  ("module", "source"),
  [
    ("diffmem.keys", "import diffmem.store"),
    ("diffmem.arrays", "from diffmem import keys"),
    ("diffmem.stats", "from diffmem.models import unet"),
    ("diffmem.data.splits", "from diffmem import models"),
    ("diffmem.data.splits", "from ..diffusion import process"),
    ("diffmem.data.splits", "from .. import distances"),
    ("diffmem.train.loop", "from diffmem.sample.bank import open_bank"),
    ("diffmem.sample.bank", "def f():\n  from diffmem import extraction"),
    ("diffmem.membership.loss", "import diffmem.extraction.rule as rule"),
    ("diffmem.report.page", "from diffmem.bin import program"),
    ("diffmem.audit", "from diffmem.bin import train"),
    ("diffmem.train.run", "import ml_collections"),
    ("diffmem.train.run", "from absl import flags"),
    ("diffmem.train.run", "from absl.flags import FLAGS"),
    ("diffmem.bin.train", "from configs import digits"),
    ("diffmem.bin.train", "from diffmem.configs import digits"),
    ("diffmem.models.unet", "import tests.conftest"),
    ("diffmem.models.unet", "from diffmem import nonesuch"),
  ],
)
def test_the_checker_sees_violations(module, source):
  assert violations(source, module)


@pytest.mark.parametrize(
  ("module", "package", "source"),
  [
    ("diffmem.keys", False, "from diffmem.arrays import Key"),
    ("diffmem.data.splits", False, "from .sources import load"),
    ("diffmem.data", True, "from .sources import load"),
    ("diffmem.data", True, "from . import sources\nfrom .. import workdir"),
    ("diffmem.extraction.attack", False, "from diffmem import train, sample"),
    ("diffmem.train.run", False, "from absl import logging"),
    ("diffmem.bin.train", False, "from absl import app, flags"),
    ("diffmem.workdir", False, "from diffmem import __version__"),
  ],
)
def test_the_checker_lets_the_rest_pass(module, package, source):
  assert violations(source, module, package) == []


def test_dependencies_are_what_is_imported(root, setup_arguments):
  """No package is used undeclared, none is installed for nothing."""
  used = set()
  for folder in ("diffmem", "configs"):
    for path in (root / folder).rglob("*.py"):
      names = imported(path.read_text(encoding="utf-8"), folder, False)
      used |= {name.partition(".")[0] for name in names}
  used -= set(sys.stdlib_module_names) | {"diffmem"}
  distributions = {
    "PIL": "pillow",
    "absl": "absl-py",
    "dp_accounting": "dp-accounting",
    "fsspec": "etils",  # brings it
    "google": "etils",  # its [epath-gcs] does
    "jax_privacy": "jax-privacy",
    "markupsafe": "jinja2",  # is part of it
    "orbax": "orbax-checkpoint",
    "sklearn": "scikit-learn",
    "tensorflow_datasets": "tensorflow-datasets",
    "torch_fidelity": "torch-fidelity",
  }
  base, extras = (
    {re.split(r"[\[<>=]", line)[0] for line in lines}
    for lines in (
      setup_arguments["install_requires"],
      itertools.chain(*setup_arguments["extras_require"].values()),
    )
  )
  used = {distributions.get(name, name) for name in used}
  assert used - base <= extras, used - base - extras
  assert base - used == {"importlib_resources"}  # tensorflow-datasets needs it


def test_import_costs_nothing(root):
  code = (
    "import sys, diffmem; assert diffmem.__version__; dir(diffmem);"
    "print(sorted({'jax', 'numpy', 'flax', 'absl'} & set(sys.modules)))"
  )
  done = subprocess.run(
    [sys.executable, "-c", code],
    cwd=root,
    capture_output=True,
    text=True,
    check=True,
  )
  assert done.stdout.strip() == "[]"


def test_attributes_are_loaded_at_first_use(root):
  code = (
    "import diffmem;"
    "assert diffmem.args.parse('x', x=False).x;"
    "assert diffmem.keys.root(0).shape == ();"
    "assert callable(diffmem.distances.nearest)"
  )
  subprocess.run([sys.executable, "-c", code], cwd=root, check=True)


def test_unknown_attribute_is_an_error():
  import diffmem

  with pytest.raises(AttributeError, match="no attribute 'nonesuch'"):
    diffmem.nonesuch  # noqa: B018
