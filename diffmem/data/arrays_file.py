# SPDX-License-Identifier: Apache-2.0
"""Source `npz:PATH`: one NumPy file.

    images    uint8 [n h w] or [n h w c], c = 1 or 3
    labels    integers [n], optional
    captions  unicode [n], or [n k] of which the first is used; optional
    ids       unique integers [n]; rows are put in their order; optional

Other keys are ignored. Nothing is ever unpickled.
"""

import zipfile
import zlib

import numpy as np
from jaxtyping import Shaped, UInt8

from diffmem import workdir
from diffmem.data.dataset import Dataset, check_images, check_integers
from diffmem.data.images import Fit

KEYS = ("images", "labels", "captions", "ids")


def npz(argument: str, fit: Fit, data_dir: object) -> Dataset:
  """Reads the arrays and puts their rows in the order of their ids."""
  arrays = read(argument)
  images = as_images(arrays["images"], argument)
  ids = arrays.get("ids", np.arange(len(images)))
  labels = arrays.get("labels")
  for key, values in (("ids", ids), ("labels", labels)):
    if values is not None:
      check_integers(f"{key} in {argument}", values)
  for key, values in arrays.items():
    if len(values) != len(images):
      raise ValueError(
        f"{argument} holds {len(values)} {key} for {len(images)} images"
      )
  order = np.argsort(ids, kind="stable")
  ids = ids[order].astype(np.int64)
  again = ids[1:][np.diff(ids) == 0]
  if len(again):
    raise ValueError(f"ids in {argument} must be unique: {again[0]} is not")
  captions = None
  if "captions" in arrays:
    captions = tuple(as_captions(arrays["captions"], argument)[order].tolist())
  if fit.crop == "none" and fit.resize is None:
    images = images[order]
  else:
    try:
      images = np.stack([fit(images[row]) for row in order])
    except ValueError as e:
      raise ValueError(f"each image in {argument} {e}") from None
  return Dataset(
    images=images,
    ids=ids,
    labels=None if labels is None else labels[order].astype(np.int64),
    captions=captions,
  )


def read(argument: str) -> dict[str, Shaped[np.ndarray, "..."]]:
  """The arrays named in KEYS; `images` must be there."""
  path = workdir.path(argument)  # an audit keeps arrays in its workdir
  if not argument or not path.is_file():
    raise FileNotFoundError(
      f"source 'npz:{argument}': no such file; expected npz:PATH"
    )
  found: list[str] = []
  try:
    with path.open("rb") as f, np.load(f, allow_pickle=False) as file:
      found = list(file.files)
      if "images" not in found:
        raise KeyError
      return {key: file[key] for key in KEYS if key in found}
  except KeyError:
    raise ValueError(
      f"{path} has no 'images', only {found}: rename the key"
    ) from None
  except (AttributeError, TypeError):
    raise ValueError(
      f"{path} is one bare array: save it with numpy.savez(path, images=...)"
    ) from None
  except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as e:
    if "allow_pickle" in str(e):
      raise ValueError(
        f"{path} holds Python objects, which are never unpickled: save plain "
        "arrays (uint8 images, integers, unicode strings) with numpy.savez"
      ) from None
    raise ValueError(
      f"{path} is not a readable npz file ({e}): save it anew"
    ) from None


def as_images(
  images: Shaped[np.ndarray, "..."], argument: str
) -> UInt8[np.ndarray, "b h w c"]:
  """uint8 [n h w c], or an error that says how to convert."""
  if np.issubdtype(images.dtype, np.floating) and images.size:
    low, high = float(np.nanmin(images)), float(np.nanmax(images))
    unit = "x" if low >= 0 else "(x + 1) / 2"
    scaled = "x" if high > 2 else f"{unit} * 255"
    raise ValueError(
      f"images in {argument} are {images.dtype} in [{low:g}, {high:g}]: save "
      f"uint8, say ({scaled}).round().clip(0, 255).astype('uint8')"
    )
  if images.ndim == 3:
    images = images[..., None]
  if images.ndim == 4 and images.shape[1] in (1, 3) != images.shape[3]:
    raise ValueError(
      f"images in {argument} have shape {images.shape}, channels first: save "
      "images.transpose(0, 2, 3, 1)"
    )
  try:
    check_images(images)
  except ValueError as e:
    raise ValueError(f"{argument}: {e}") from None
  return images


def as_captions(
  captions: Shaped[np.ndarray, "..."], argument: str
) -> Shaped[np.ndarray, " b"]:
  """Unicode [n]; of several captions the first."""
  if captions.dtype.kind != "U" or captions.ndim not in (1, 2):
    raise ValueError(
      f"captions in {argument} are {captions.dtype} of shape "
      f"{captions.shape}: expected unicode strings [n] or [n k]"
    )
  return captions if captions.ndim == 1 else captions[:, 0]
