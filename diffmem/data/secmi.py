# SPDX-License-Identifier: Apache-2.0
"""The split of CIFAR-10 on which diffusion membership attacks are compared.

25,000 of the 50,000 training rows are members. From "Are Diffusion Models
Vulnerable to Membership Inference Attacks?" (Duan et al., ICML 2023), file
CIFAR10_train_ratio0.5.npz. Its rows count in torchvision's order, whose
labels begin 6,9,9,4,1,1,2,7,8,3; TFDS shuffles, which its `id` undoes.
"""

import hashlib
import os
import pathlib

import numpy as np
from jaxtyping import Int

from diffmem.data.dataset import Dataset, duplicate_of
from diffmem.data.streams import permutation

SHA256 = "aca922ecee25ef00dc6b6377ebaf7875dfcc77c2cdfe27c873b26a65134aa0c0"
FIRST_LABELS = [6, 9, 9, 4, 1, 1, 2, 7, 8, 3]
ROWS = 50_000


def cifar10(
  dataset: Dataset,
  *,
  seed: int,
  members: int | None,
  held_out: int | None,
  calibration: int | None,
  path: str | os.PathLike | None,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, dict]:
  """Members as published; held-out and calibration share the others.

  A dataset with only some of the 50,000 rows is split as far as it goes.
  Images outside with the pixels of a member, or of an earlier image outside,
  are left out. None takes all members, and half of the others for each part.
  """
  file = read(path)
  check_order(dataset)
  inside = np.intersect1d(file["mia_train_idxs"], dataset.ids)
  outside = np.intersect1d(file["mia_eval_idxs"], dataset.ids)
  order = np.concatenate([inside, outside])
  first = duplicate_of(dataset.take(order))
  is_first = first == np.arange(len(order))
  of_members = int((first[len(inside) :] < len(inside)).sum())
  kept = outside[is_first[len(inside) :]]
  info = {
    "file_sha256": SHA256,
    "rows_present": len(order),
    "rows_published": ROWS,
    "members_present": len(inside),
    "left_out_equal_to_member": of_members,
    "left_out_equal_outside": len(outside) - len(kept) - of_members,
    "duplicate_members": int((~is_first[: len(inside)]).sum()),
  }
  if members is None:
    members = len(inside)
  held_out, calibration = shares(len(kept), held_out, calibration)
  for key, size, most in (
    ("members", members, len(inside)),
    ("held_out + calibration", held_out + calibration, len(kept)),
  ):
    if not 0 < size <= most:
      raise ValueError(
        f"{key} = {size}: this dataset holds {most} of them, ask for at "
        "most that, and for 1 at least"
      )
  inside = inside[permutation(len(inside), seed, "membership")][:members]
  kept = kept[permutation(len(kept), seed, "calibration")]
  third = kept[held_out : held_out + calibration]
  return np.sort(inside), np.sort(kept[:held_out]), np.sort(third), info


def shares(
  count: int, held_out: int | None, calibration: int | None
) -> tuple[int, int]:
  """Sizes of the two parts: half and half, or the rest beside a given one."""
  if held_out is None:
    rest = count - count // 2 if calibration is None else count - calibration
    held_out = max(rest, 0)
  if calibration is None:
    calibration = max(count - held_out, 0)
  if min(held_out, calibration) < 0:
    raise ValueError(
      f"held_out={held_out}, calibration={calibration}: expected 0 or more"
    )
  return held_out, calibration


def read(path: str | os.PathLike | None) -> dict[str, Int[np.ndarray, " n"]]:
  """The index arrays of the published file, if it is that file."""
  if path is None:
    raise ValueError(
      "split 'secmi-cifar10' needs path=FILE, the CIFAR10_train_ratio0.5.npz "
      "of the SecMI repository"
    )
  file = pathlib.Path(path).expanduser()
  if not file.is_file():
    raise FileNotFoundError(f"no file {file}: expected the SecMI split")
  found = hashlib.sha256(file.read_bytes()).hexdigest()
  if found != SHA256:
    raise ValueError(
      f"{file} has sha256 {found[:12]}..., the published split has "
      f"{SHA256[:12]}...: take CIFAR10_train_ratio0.5.npz from the SecMI "
      "repository"
    )
  with np.load(file, allow_pickle=False) as arrays:
    keys = ("mia_train_idxs", "mia_eval_idxs")
    return {key: arrays[key].astype(np.int64) for key in keys}


def check_order(dataset: Dataset) -> None:
  """Refuses rows that are not those of torchvision's CIFAR-10."""
  wanted = ",".join(map(str, FIRST_LABELS))
  advice = "load CIFAR-10's training set with its original row numbers as ids"
  if dataset.labels is None:
    raise ValueError(
      "split 'secmi-cifar10' needs labels, to see that rows are in "
      f"torchvision's order: {advice}"
    )
  if dataset.ids[-1] >= ROWS:
    raise ValueError(
      f"the dataset has id {dataset.ids[-1]}, CIFAR-10 has rows 0 to "
      f"{ROWS - 1}: {advice}"
    )
  begin = np.array_equal(dataset.ids[:10], np.arange(10))
  labels = dataset.labels[:10].tolist()
  if not begin or labels != FIRST_LABELS:
    raise ValueError(
      f"ids {dataset.ids[:10].tolist()} have labels {labels}, rows 0 to 9 of "
      f"CIFAR-10 in torchvision's order have {wanted}: its rows would be "
      f"taken for others; {advice}"
    )
