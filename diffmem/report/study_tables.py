# SPDX-License-Identifier: Apache-2.0
"""Numbers of Carlini et al. 2023 beside ours, and what differs.

None of the settings is the paper's: its models are of CIFAR-10 and need
accelerators. Numbers of the paper that could not be confirmed are left out.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from diffmem.report.study_reads import Arm, rate, span

SMALL = "8 x 8 digits, 599 of them in training and some of these planted"


def _counts(arm: Arm) -> str:
  found = [run["extraction"]["unique"] for run in arm]
  return f"{span(found)} of {arm[0]['extraction']['searched']}"


def _kinds(ddpm: Arm, stylegan: Arm, equal: Arm, gan: Arm) -> str:
  return (
    f"StyleGAN-ADA {_counts(stylegan)}, diffusion of its quality "
    f"{_counts(ddpm)}; DiffBigGAN {_counts(gan)}, diffusion of its quality "
    f"{_counts(equal)}"
  )


def _strict(shadows: Arm) -> str:
  one = rate(shadows, "lira_one_draw", "tpr@0.001")
  many = rate(shadows, "lira", "tpr@0.001")
  return f"{one} with one draw, {many} with 16"


def _best_time(shadows: Arm) -> str:
  sweeps = [run["membership"]["attacks"]["lira"]["sweep"] for run in shadows]
  times = sorted(sweeps[0], key=int)
  means = [np.mean([sweep[t][1] for sweep in sweeps]) for t in times]
  return f"t = {times[int(np.argmax(means))]} of {', '.join(times)}"


def _training(ddpm: Arm, short: Arm) -> str:
  return (
    f"{rate(short, 'loss', 'tpr@0.01')} after 500 steps, "
    f"{rate(ddpm, 'loss', 'tpr@0.01')} after 4,000"
  )


def _inpainting(shadows: Arm) -> str:
  seen, not_seen = (
    span([run["inpaint"][k][0] for run in shadows], ".3f")
    for k in ("seen", "not_seen")
  )
  return f"{seen} seen, {not_seen} not seen"


def _removal(ddpm: Arm, dedup: Arm) -> str:
  return f"{_counts(ddpm)} before, {_counts(dedup)} after"


def _exposure(canaries: Arm) -> str:
  kinds = [run["membership"]["canaries"]["noise"] for run in canaries]
  means = {
    k: np.mean([kind["mean"][k] for kind in kinds]) for k in kinds[0]["mean"]
  }
  return ", ".join(f"{k} times: {v:.1f}" for k, v in means.items())


def _common(ddpm: Arm, gan: Arm) -> str:
  both = [
    len(set(a["extraction"]["copies"]) & set(b["extraction"]["copies"]))
    for a, b in zip(ddpm, gan, strict=True)
  ]
  return f"{span(both)} in common"


# Of each table: what it is of, the paper's numbers, the arms and how ours are
# read off them, what differs.
TABLES: dict[str, tuple[str, str, tuple[str, ...], Callable[..., str], str]] = {
  "T1": (
    "training images extracted, by kind of model",
    "StyleGAN-ADA 150, DiffBigGAN 57, OpenAI's DDPM 301, Ho et al.'s 232, of "
    "50,000, at FID 2.9, 4.6, 2.9, 3.2",
    ("ddpm", "stylegan", "equal", "gan"),
    _kinds,
    f"{SMALL}; 4,096 generations, not 2^20; small networks of our own",
  ),
  "T2": (
    "training images extracted by the ratio",
    "1,280 of 50,000",
    ("ddpm",),
    _counts,
    f"{SMALL}; one model a seed, not 16 together",
  ),
  "T3": (
    "LiRA, rate at 0.1% false alarms",
    "about 7%, with 20 draws and mirror images about 44%",
    ("shadows",),
    _strict,
    "8 models of 8 x 8 digits, not 16 class-conditional ones; no mirror images",
  ),
  "T4": (
    "best noise level of LiRA, of 1,000",
    "50 to 300",
    ("shadows",),
    _best_time,
    "8 x 8 images keep their signal at lower levels than 32 x 32 ones",
  ),
  "T5": (
    "rate at 1% false alarms over training",
    "7% at FID 8, nearly all at 3.5",
    ("ddpm", "short"),
    _training,
    "a threshold for all images, not LiRA; steps, not FID",
  ),
  "T6": (
    "distance of completed left halves",
    "members nearer; a figure without numbers",
    ("shadows",),
    _inpainting,
    "64 completions of an image, not 5,000; over the hidden pixels alone",
  ),
  "T7": (
    "extracted before and after deduplication",
    "1,280 and 986, of 50,000 with 5,275 removed",
    ("ddpm", "dedup"),
    _removal,
    "here the duplicates were planted, and were most of what was extracted",
  ),
  "T8": (
    "exposure of noise canaries",
    "some reach the most, 10, with two copies",
    ("canaries",),
    _exposure,
    "8 x 8 images; the mean over canaries",
  ),
  "T9": (
    "images that a diffusion model and a GAN both give away",
    "not printed: its numbers could not be confirmed",
    ("ddpm", "gan"),
    _common,
    SMALL,
  ),
}


def beside(observed: dict[str, dict[str, dict]]) -> list[dict[str, Any]]:
  """All tables; "ours" is None where an arm is missing."""
  found = []
  for name, (what, paper, arms, read, differs) in TABLES.items():
    common = set.intersection(*(set(observed.get(a, {})) for a in arms))
    seeds = sorted(common, key=int)
    ours = (
      read(*([observed[a][s] for s in seeds] for a in arms)) if seeds else None
    )
    found.append(
      {
        "table": name,
        "of": what,
        "paper": paper,
        "ours": ours,
        "differs": differs,
      }
    )
  return found
