# SPDX-License-Identifier: Apache-2.0
"""Audits of images that somebody else made, from files and from arrays."""

import csv
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

import diffmem
from diffmem.bin import program

DIGITS = np.round(load_digits().images * (255 / 16)).astype(np.uint8)[..., None]
ORDER = np.random.default_rng(0).permutation(len(DIGITS))
TRAINING, HELD_OUT, FRESH = (
  DIGITS[ORDER[a:b]] for a, b in ((0, 300), (300, 600), (600, 900))
)


def generations():
  """300 fresh digits, and 20 copies of training images off by a grey level."""
  copies = TRAINING[:20].copy()
  copies[copies > 100] -= 1
  return np.concatenate([FRESH, copies])


def save(folder, images):
  folder.mkdir(parents=True)
  for i, image in enumerate(images):
    Image.fromarray(image[..., 0]).save(folder / f"{i:04d}.png")
  return folder


def test_defaults_are_those_of_the_config(root):
  config = program.load_config(f"{root}/configs/folder.py:quality").to_dict()
  for section, settings in diffmem.audit.DEFAULTS.items():
    assert config[section] == settings, section
  assert set(config) - set(diffmem.audit.DEFAULTS) == {"seed"}


@pytest.fixture(scope="module")
def audited(tmp_path_factory):
  workdir = tmp_path_factory.mktemp("outside") / "run"
  results = diffmem.audit(
    workdir,
    generations=generations(),
    training=TRAINING,
    held_out=HELD_OUT,
    distances={"block": 512},
  )
  return workdir, results


def test_arrays_with_held_out_images(audited):
  workdir, results = audited
  found = results["extraction"]
  assert results["workdir"] == str(workdir)
  assert found["generated"] == 320
  assert found["unique"] >= 20
  assert found["held_out"]["searched"] == 150
  assert found["held_out"]["unique"] <= 3
  with open(workdir / "report" / "matches.csv", newline="") as file:
    rows = list(csv.DictReader(file))
  assert {int(row["training_id"]) for row in rows[:20]} == set(range(20))
  assert (workdir / "report" / "index.html").stat().st_size > 10_000
  assert results["membership"] is None


def test_files_give_the_same(audited, tmp_path):
  _, results = audited
  again = diffmem.audit(
    tmp_path / "run",
    generations=save(tmp_path / "generations", generations()),
    training=save(tmp_path / "training", TRAINING),
    held_out=save(tmp_path / "held_out", HELD_OUT),
    distances={"block": 512},
  )
  assert again["extraction"] == results["extraction"]


def test_without_held_out_images(tmp_path):
  results = diffmem.audit(
    tmp_path / "run",
    generations=generations(),
    training=TRAINING,
    distances={"block": 512},
    extraction={"false_match_rate": 0.01},
  )
  found = results["extraction"]
  assert found["control"]["method"] == "leave one out"
  assert found["unique"] >= 20
  assert found["control"]["p_value"] < 1e-3
  page = (tmp_path / "run" / "report" / "index.html").read_text()
  assert "no control" not in page


def test_grey_images_saved_in_colour(tmp_path):
  """As torchvision saves them: three equal channels."""
  results = diffmem.audit(
    tmp_path / "run",
    generations=np.repeat(generations(), 3, axis=-1),
    training=TRAINING,
    held_out=HELD_OUT,
    features={"name": None},
    distances={"block": 512},
  )
  assert results["extraction"]["unique"] >= 20


def test_generations_alone(tmp_path):
  results = diffmem.audit(tmp_path / "run", generations=FRESH[:30])
  assert results["extraction"] is None
  assert json.loads((tmp_path / "run" / "sample" / "meta.json").read_text())


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"training": "nowhere"}, "nowhere: no such folder"),
    ({"training": np.zeros((9, 4, 4, 1), np.uint8)}, "generations are 8x8x1"),
    ({"extraction": {"alhpa": 1}}, "did you mean 'alpha'"),
    ({"extarction": {}}, "did you mean 'extraction'"),
    ({"generations": np.zeros((3, 8, 8))}, "uint8"),
    ({"generations": "nowhere"}, "nowhere"),
  ],
)
def test_mistakes_are_named(change, message, tmp_path):
  given = dict(generations=FRESH[:20], training=TRAINING[:20]) | change
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    diffmem.audit(tmp_path / "run", **given)


def test_neither_config_nor_images():
  with pytest.raises(ValueError, match="give a workdir with a config"):
    diffmem.audit()


@pytest.mark.parametrize("kind", ["finite", "gaussian"])
def test_a_denoiser(kind, tmp_path):
  """One that memorizes all of its images, and one that remembers none."""
  schedule = diffmem.diffusion.schedules.linear(steps=1000)
  members, others = DIGITS[ORDER[:40]], DIGITS[ORDER[40:80]]
  x = members.astype(np.float32) / 127.5 - 1
  if kind == "finite":
    denoiser = diffmem.denoiser.finite_set(x, schedule)
  else:
    every = DIGITS.reshape(len(DIGITS), -1) / 127.5 - 1
    cov = np.cov(every.T) + 0.05 * np.eye(64)
    mean = every.mean(0).reshape(8, 8, 1)
    denoiser = diffmem.denoiser.gaussian(mean, cov, schedule)
  results = diffmem.audit(
    tmp_path / "run",
    denoiser=denoiser,
    images=members,
    held_out=others,
    n=256,
    batch=32,
    steps=20,
    t=50,
    attacks={"loss": {"draws": 4}, "pia": {}},
    features={"name": None},
    extraction={"false_match_rate": 0.05},
  )
  found, loss = results["extraction"], results["membership"]["loss"]
  if kind == "finite":
    assert found["unique"] >= 36
    assert found["held_out"]["unique"] <= 2
    assert loss["auc"][0] > 0.99
    assert results["membership"]["pia"]["auc"][0] > 0.99
  else:
    assert found["unique"] <= 4
    assert loss["auc"][1] < 0.5 < loss["auc"][2]
  page = (tmp_path / "run" / "report" / "index.html").read_text()
  assert "pia" in page
