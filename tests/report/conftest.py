# SPDX-License-Identifier: Apache-2.0
"""Synthetic workdirs: the files of every stage, without any stage."""

import csv
import io
import json

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

COLUMNS = [
  "training_id",
  "generation_id",
  "distance",
  "ratio",
  "copies",
  "hits",
  "label",
  "name",
  "caption",
]
CONFIG = {
  "seed": 0,
  "data": {
    "source": "digits",
    "crop": "none",
    "resize": None,
    "split": {"name": "random", "members": 599, "planted": [[50, 4], [2, 4]]},
  },
  "models": {"name": "unet", "width": 16},
  "diffusion": {"schedule": {"name": "linear", "steps": 1000}},
  "train": {"batch": 64, "steps": 4000, "lr": 2e-3},
}
COPIES = {50: (4, 4), 20: (6, 6), 10: (2, 4), 5: (1, 4), 2: (0, 4), 1: (0, 577)}


def pictures(rng, count: int, shape=(8, 8, 1)) -> np.ndarray:
  """Digits where the shape allows, else soft colour fields."""
  if shape == (8, 8, 1):
    images = load_digits().images[rng.integers(1797, size=count)] * 255 / 16
    return images.astype(np.uint8)[..., None]
  h, w, c = shape
  coarse = rng.integers(0, 256, (count, 4, 4, c), dtype=np.uint8)
  return np.stack(
    [
      np.asarray(Image.fromarray(i).resize((w, h), Image.Resampling.BICUBIC))
      for i in coarse
    ]
  )


def meta(config: dict, seconds: float, **more) -> dict:
  return {
    "status": "finished",
    "config": config,
    "inputs": {},
    "version": "0.1.0",
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "started": "2026-11-21T09:30:00+00:00",
    "seconds": seconds,
    "runs": 1,
    "hardware": {
      "machine": "x86_64",
      "cpus": 2,
      "python": "3.13.1",
      "jax": "0.12.0",
      "devices": "1 x cpu",
    },
    **more,
  }


class Workdir:
  """Writes the files of single stages."""

  def __init__(self, root):
    self.root = root
    self.rng = np.random.default_rng(0)

  def write(self, name: str, content) -> None:
    file = self.root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, bytes):
      file.write_bytes(content)
    elif isinstance(content, str):
      file.write_text(content)
    else:
      file.write_text(json.dumps(content))

  def train(self):
    self.write(
      "data/meta.json",
      {
        "dataset": {"source": "digits", "rows": 1797, "sha256": "ab" * 32},
        "split": {"seed": 0, "members": 599, "sha256": "cd" * 32},
      },
    )
    self.write(
      "train/meta.json",
      meta(CONFIG, 97.1, parameters=61_234, images=965, weights="ef" * 32),
    )
    lines = [
      {"step": s, "loss": 0.06 + np.exp(-s / 600) + 0.01 * self.rng.normal()}
      for s in range(100, 4001, 100)
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    self.write("train/metrics.jsonl", text + '{"step": 4100, "lo')
    for step in (1000, 2000, 3000, 4000):
      grid = np.full((71, 71), 128, np.uint8)
      for i, image in enumerate(pictures(self.rng, 64)):
        y, x = divmod(i, 8)
        grid[9 * y : 9 * y + 8, 9 * x : 9 * x + 8] = image[..., 0]
      packed = io.BytesIO()
      Image.fromarray(grid).save(packed, format="PNG")
      self.write(f"train/previews/step_{step:08d}.png", packed.getvalue())
    return self

  def sample(self):
    config = {"seed": 0, "sample": {"n": 4096, "stepper": "ddim"}}
    self.write("sample/meta.json", meta(config, 21.3, generated=4096))
    config = {"distances": {"k": 51}}
    self.write("distances/meta.json", meta(config, 3.2))
    return self

  def table(self, name, count, low, high, texts=None, copies=(1,)):
    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS)
    writer.writeheader()
    for i, d in enumerate(np.sort(self.rng.uniform(low, high, count))):
      row = dict.fromkeys(COLUMNS, "")
      row |= {
        "training_id": 10 * i,
        "generation_id": 7 * i + 1,
        "label": i % 10,
      }
      row |= {"distance": f"{d:.8f}", "ratio": f"{8 * d:.8f}"}
      row |= {"copies": copies[i % len(copies)], "hits": count - i}
      writer.writerow(row | (texts or {}))
    self.write(f"extraction/{name}.csv", out.getvalue())

  def extraction(
    self,
    *,
    matches=13,
    false=1,
    near=48,
    held_out=599,
    searched=599,
    shape=(8, 8, 1),
    texts=None,
    finished=True,
  ):
    count = {"match": matches, "near": near, "false": false}
    arrays = {}
    for key, n in count.items():
      images = pictures(self.rng, min(n, 48), shape)
      noise = self.rng.integers(-12, 13, images.shape)
      noisy = np.clip(images + noise, 0, 255).astype(np.uint8)
      arrays[f"{key}_training"], arrays[f"{key}_generations"] = images, noisy
    packed = io.BytesIO()
    np.savez_compressed(packed, **arrays)
    self.write("extraction/gallery.npz", packed.getvalue())
    copies = (50, 50, 20, 20, 10, 5)
    self.table("matches", matches, 0.005, 0.054, texts, copies)
    self.table("near_misses", near, 0.056, 0.09, texts)
    self.table("held_out_matches", false, 0.04, 0.055, texts, (0,))
    edges = np.linspace(0, 0.32, 61)
    mids = (edges[1:] + edges[:-1]) / 2
    bulk = 260 * np.exp(-(((mids - 0.17) / 0.035) ** 2) / 2)
    copied = 30 * np.exp(-(((mids - 0.03) / 0.012) ** 2) / 2) * (matches > 0)
    budgets = np.unique(np.geomspace(1, 4096, 32).round().astype(int))
    results = {
      "generated": 4096,
      "unique": matches,
      "unique_interval": [
        0.8 * matches / searched,
        1.2 * (matches + 1) / searched,
      ],
      "searched": searched,
      "planted": {str(k): list(v) for k, v in COPIES.items()},
      "held_out": {
        "unique": false,
        "searched": held_out,
        "unique_interval": [0.00004, 0.0093],
        "real_matches": 2,
        "real_searched": held_out,
      },
      "rule": {
        "delta": 0.055,
        "delta_interval": [0.048, 0.061],
        "alpha": 0.5,
        "neighbours": 50,
        "centring": "generation",
        "false_match_rate": 0.001,
        "calibration": {
          "searched": 599,
          "finite": 61,
          "method": "tail",
          "expected_held_out": [0.6, 0, 3],
        },
      },
      "other_centring": {
        "name": "training",
        "unique": 11,
        "held_out_unique": 0,
      },
      "yield": {
        "generated": budgets.tolist(),
        "members": (matches * (1 - np.exp(-budgets / 900))).tolist(),
        "held_out": (false * budgets / 4096).tolist(),
      },
      "histogram": {
        "edges": edges.tolist(),
        "members": (bulk + copied).astype(int).tolist(),
        "held_out": (bulk * 1.02).astype(int).tolist(),
      },
    }
    self.write("extraction/results.json", results)
    config = {"seed": 0, "extraction": {"alpha": 0.5, "gallery": 48}}
    status = {} if finished else {"status": "started"}
    self.write("extraction/meta.json", meta(config, 1.4) | status)
    return self

  def membership(self, auc=(0.612, 0.581, 0.644), name="loss"):
    a, b = self.rng.normal(0.4, 1, 577), self.rng.normal(0, 1, 599)
    cuts = np.sort(np.r_[a, b])[::-1]
    fpr = np.r_[0, [(b >= c).mean() for c in cuts]]
    tpr = np.r_[0, [(a >= c).mean() for c in cuts]]
    packed = io.BytesIO()
    np.savez(packed, **{f"{name}_fpr": fpr, f"{name}_tpr": tpr})
    self.write("membership/roc.npz", packed.getvalue())
    attack = {
      "auc": list(auc),
      "tpr@0.01": [0.026, 0.009, 0.054],
      "tpr@0.001": None,
      "t": 100,
      "draws": 16,
      "members": 577,
      "non_members": 599,
      "by_copies": {
        "50": [0.999, 0.99, 1.0],
        "20": [0.981, 0.95, 0.999],
        "2": [0.7, 0.5, 0.86],
      },
      "sweep": [
        {"t": t, "auc": [v, v - 0.03, v + 0.03], "tpr@0.01": r}
        for t, v, r in (
          (10, 0.58, [0.02, 0.01, 0.04]),
          (30, 0.63, [0.03, 0.01, 0.05]),
          (100, 0.612, [0.026, 0.009, 0.054]),
          (300, 0.52, [0.012, 0.003, 0.02]),
        )
      ],
    }
    self.write("membership/results.json", {name: attack})
    scores = "id,member,copies,loss\n3,1,1,-0.25\n4,0,0,-0.5\n"
    self.write("membership/scores.csv", scores)
    config = {"seed": 0, "membership": {"attacks": [name], "t": [10, 100]}}
    self.write("membership/meta.json", meta(config, 14.8))
    return self

  def all(self, **extraction):
    return self.train().sample().extraction(**extraction).membership()


@pytest.fixture
def workdir(tmp_path):
  """A folder to be filled stage by stage."""
  return Workdir(tmp_path)


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
  """A folder in which every stage has finished; not to be written to."""
  return Workdir(tmp_path_factory.mktemp("whole")).all()


def numbers(auc, tpr, width=0.02, kind="model", t=(10, 30, 100), **more):
  """An attack whose numbers have intervals of one width."""

  def ends(x):
    return [x, max(x - width, 0.0), min(x + width, 1.0)]

  peak = {10: 0.1, 30: 0.0, 100: 0.05}
  return {
    "auc": ends(auc),
    "tpr@0.01": ends(tpr),
    "tpr@0.001": None,
    "t": 30,
    "kind": kind,
    "models": 8,
    "members": 400,
    "non_members": 400,
    "chosen": {"t": 30, "criterion": "auc", "on": {}},
    "transferred": {
      "fpr": 0.01,
      "threshold": 1.0,
      "set_by": "calibration images",
      "set_on": 599,
      "realised_fpr": [0.03, 0.02, 0.04],
      "tpr": ends(tpr),
    },
    "sweep": [
      {"t": x, "auc": ends(auc - peak[x]), "tpr@0.01": ends(tpr)} for x in t
    ],
    "by_draws": [
      {
        "draws": d,
        "augment": views,
        "auc": ends(auc - 0.1 / d),
        "tpr@0.01": ends(tpr * (1 - 0.5 / d) * (1 + 0.1 * (len(views) - 1))),
      }
      for views in (["identity"], ["identity", "flip"])
      for d in (1, 16)
    ],
    **more,
  }


@pytest.fixture
def attack():
  """Makes the results of one attack."""
  return numbers


@pytest.fixture
def attacks():
  """Eight attacks, those with shadow models last, as a run leaves them."""
  return {
    "loss": numbers(0.80, 0.10),
    "pia": numbers(0.85, 0.30),
    "secmi": numbers(0.70, 0.09),
    "pian": numbers(0.40, 0.01),
    "rmia": numbers(0.97, 0.60, kind="shadow", attack="rmia"),
    "lira": numbers(0.95, 0.50, kind="shadow", attack="lira"),
    "sima": numbers(0.82, 0.20),
    "gradients": numbers(0.81, 0.15, kind="shadow", attack="gradients"),
  }
