# SPDX-License-Identifier: Apache-2.0
"""Which distance finds which altered copies, at a stated false-match rate.

  python benchmarks/copies.py [--npz=IMAGES.npz] [--rates=0.01,0.001]
    [--distances=rms,descriptor] [--weights=sscd=PATH,clip=PATH,dinov2=PATH]

Photographs are parted at random: references; originals of the copies, some of
the references; honest images, in no way copies, as many as copies; as many
again to calibrate; the rest lend subjects. Each copy is an original that was

  exact     left as it is
  jpeg      compressed at quality 50
  resized   halved and doubled again (Lanczos)
  mirrored  left and right swapped
  cropped   cut to a random window of 90% of each side and resized back
  brighter  multiplied by 1.1
  template  given another image's middle (half of each side)

It is found if its nearest reference is its original, and its distance is at
most the threshold: that at which the stated share of the calibration images is
matched. Beside it stands the rate that the honest images show, with its 95%
interval. Among whom honest images are searched is a choice, and both are
printed:

  all     all references. Near-duplicates in the collection (CIFAR-10 has many)
          count as false matches: the thresholds are too strict.
  others  the references of other labels, which hold next to no near-duplicate,
          but also none of those most alike: the thresholds are too loose.
"""

import argparse
import io
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from diffmem import distances, features, stats
from diffmem.distances import metrics

ALPHA, NEIGHBOURS = 0.5, 50  # of the ratio rule
BATCH = 256


def resized(x, size, box=None):
  """An image [h w c] in another size, by Lanczos."""
  picture = Image.fromarray(x.squeeze()).resize(size, Image.LANCZOS, box)
  return np.asarray(picture).reshape(size[1], size[0], x.shape[2])


def jpeg(x, rng, others):
  """Compressed at quality 50."""
  file = io.BytesIO()
  Image.fromarray(x.squeeze()).save(file, "JPEG", quality=50)
  return np.asarray(Image.open(file)).reshape(x.shape)


def halved(x, rng, others):
  """Halved and doubled again."""
  h, w = x.shape[:2]
  return resized(resized(x, (w // 2, h // 2)), (w, h))


def cropped(x, rng, others):
  """A window of 90% of each side, resized back."""
  h, w = x.shape[:2]
  left, top = rng.uniform(0, 0.1 * w), rng.uniform(0, 0.1 * h)
  return resized(x, (w, h), (left, top, left + 0.9 * w, top + 0.9 * h))


def template(x, rng, others):
  """Another image's middle in this one."""
  h, w = x.shape[:2]
  middle = np.s_[h // 4 : h - h // 4, w // 4 : w - w // 4]
  x = x.copy()
  x[middle] = others[rng.integers(len(others))][middle]
  return x


COPIES = {
  "exact": lambda x, rng, others: x,
  "jpeg": jpeg,
  "resized": halved,
  "mirrored": lambda x, rng, others: x[:, ::-1],
  "cropped": cropped,
  "brighter": lambda x, rng, others: np.uint8(np.minimum(x * 1.1, 255)),
  "template": template,
}


class Distance(NamedTuple):
  """prepare: images -> arrays of rows; near: two of them -> (ids, values)."""

  prepare: Callable
  near: Callable


def rms(mirror: bool) -> Distance:
  """Pixels."""

  def near(queries, references):
    found = distances.nearest(queries[0], references[0], 1, mirror=mirror)
    return found.ids[:, 0], found.distances[:, 0]

  return Distance(lambda images: (images,), near)


def ratio() -> Distance:
  """The rule of extraction: the RMS where the ratio passes, else infinite."""

  def near(queries, references):
    k = min(NEIGHBOURS, len(references[0]))
    found = distances.nearest(queries[0], references[0], k, mirror=True)
    first = found.distances[:, 0]
    passes = first <= ALPHA * found.distances.mean(axis=1)
    return found.ids[:, 0], np.where(passes, first, np.inf)

  return Distance(lambda images: (images,), near)


def patch(side: int) -> Distance:
  """Where two images differ most, in squares of `side` pixels."""

  def near(queries, references):
    rows, values = [], []
    for start in range(0, len(queries[0]), 500):
      some = queries[0][start : start + 500]
      worst = distances.patch_max(some, side, references=references[0])
      rows.append(worst.argmin(axis=1))
      values.append(worst.min(axis=1))
    return np.concatenate(rows), np.concatenate(values)

  return Distance(lambda images: (images,), near)


def embedded(made: features.Features) -> Distance:
  """Features of an image and of its mirror image."""

  def embed(images):
    count = -len(images) % BATCH
    padded = np.concatenate([images, np.repeat(images[-1:], count, axis=0)])
    blocks = range(0, len(padded), BATCH)
    found = [made.embed(padded[i : i + BATCH]) for i in blocks]
    return np.concatenate(found)[: len(images)]

  def prepare(images):
    return embed(images), embed(np.ascontiguousarray(images[:, :, ::-1]))

  def near(queries, references):
    one, two = (
      distances.nearest_vectors(q, references[0], 1, metric=made.metric)
      for q in queries
    )
    mirrored = two.distances < one.distances
    ids = np.where(mirrored, two.ids, one.ids)[:, 0]
    return ids, np.minimum(one.distances, two.distances)[:, 0]

  return Distance(prepare, near)


class Sets(NamedTuple):
  """Images of each part; labels of those that are honest or referred to."""

  references: np.ndarray
  originals: np.ndarray
  copies: dict
  honest: np.ndarray
  calibration: np.ndarray
  labels: dict


def part(images, labels, seed: int) -> Sets:
  """Two fifths are references; of each kind there are a fortieth."""
  rng = np.random.default_rng(seed)
  order = rng.permutation(len(images))
  each = len(images) // 40
  sizes = (2 * len(images) // 5, each * len(COPIES), each * len(COPIES))
  rows = np.split(order, np.cumsum(sizes))
  references, honest, calibration, others = (images[r] for r in rows)
  originals = rng.choice(len(references), each, replace=False)
  copies = {
    name: np.stack([make(references[i], rng, others) for i in originals])
    for name, make in COPIES.items()
  }
  names = ("references", "honest", "calibration")
  known = {n: labels[r] for n, r in zip(names, rows, strict=False)}
  return Sets(references, originals, copies, honest, calibration, known)


def other_labels(distance, queries, references, labels, reference_labels):
  """Distance of each query to the nearest reference of another label."""
  values = np.empty(len(labels))
  for label in np.unique(labels):
    mine, theirs = labels == label, reference_labels != label
    values[mine] = distance.near(
      [q[mine] for q in queries], [r[theirs] for r in references]
    )[1]
  return values


def measure(name: str, distance: Distance, sets: Sets, rates) -> dict:
  """{(among, rate): the cells of a row}; prints how long it took."""
  start = time.perf_counter()
  references = distance.prepare(sets.references)
  prepared = time.perf_counter() - start
  labels = sets.labels["references"]
  honest = {"all": {}, "others": {}}
  for which in ("calibration", "honest"):
    queries = distance.prepare(getattr(sets, which))
    honest["all"][which] = distance.near(queries, references)[1]
    if len(np.unique(labels)) > 1:
      honest["others"][which] = other_labels(
        distance, queries, references, sets.labels[which], labels
      )
  found = {
    kind: distance.near(distance.prepare(images), references)
    for kind, images in sets.copies.items()
  }
  rows = {}
  for among, values in honest.items():
    for rate in rates if values else ():
      delta = stats.calibrate(values["calibration"], rate, 0, cap=2.0).delta
      cells = [
        f"{np.mean((ids == sets.originals) & (v <= delta)):.3f}"
        for ids, v in found.values()
      ]
      false = int((values["honest"] <= delta).sum())
      low, high = stats.clopper_pearson(false, len(sets.honest))
      cells.append(f"{false / len(sets.honest):.4f} [{low:.4f}, {high:.4f}]")
      rows[among, rate] = [*cells, f"{delta:.4f}"]
  seconds = time.perf_counter() - start
  per = prepared / len(sets.references) * 1e3
  print(f"{name}: {seconds:.0f} s, of it {per:.2f} s to embed 1,000 images")
  return rows


def choices(sets: Sets, weights: dict) -> dict[str, Callable[[], Distance]]:
  """What there is to compare, made when its turn comes."""

  def learned():
    start = time.perf_counter()
    made = features.create("classifier", images=sets.references)
    print(f"classifier: trained in {time.perf_counter() - start:.0f} s")
    return embedded(made)

  side = max(2, sets.references.shape[1] // 4)
  known = {
    "rms": lambda: rms(False),
    "rms+mirror": lambda: rms(True),
    "ratio rule": ratio,
    f"patch max {side}": lambda: patch(side),
    "descriptor": lambda: embedded(features.create("descriptor")),
    "classifier": learned,
  }
  for name, path in weights.items():
    known[name] = lambda name=name, path=path: embedded(
      features.create(name, path=path)
    )
  return known


def load(path: str | None):
  """(images, labels) of an .npz, or scikit-learn's digits."""
  if path is None:
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype(np.uint8)[..., None]
    return images, digits.target
  with np.load(path, allow_pickle=False) as file:
    arrays = dict(file)
  images = arrays["images"]
  if images.ndim == 3:
    images = images[..., None]
  labels = arrays.get("labels", np.zeros(len(images), np.int64))
  keep = arrays.get("lossless", np.ones(len(images), bool))
  return images[keep], labels[keep]


def main():
  """Prints one table for each rate."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parser.add_argument("--npz", help="uint8 `images`, and `labels` if any")
  parser.add_argument("--rates", default="0.01,0.001")
  parser.add_argument("--distances", help="names, by comma; default: all")
  parser.add_argument("--weights", default="", help="name=PATH, by comma")
  parser.add_argument("--seed", type=int, default=0)
  flags = parser.parse_args()
  images, labels = load(flags.npz)
  sets = part(images, labels, flags.seed)
  shape = " x ".join(map(str, images.shape[1:]))
  print(
    f"{len(sets.references)} references of {shape}, {len(sets.originals)} "
    f"copies of each kind, {len(sets.honest)} honest images and "
    f"{len(sets.calibration)} to calibrate; each image differs from itself "
    f"mirrored by an RMS of {mirrored_rms(sets.references):.3f}"
  )
  weights = dict(pair.split("=") for pair in flags.weights.split(",") if pair)
  known = choices(sets, weights)
  names = flags.distances.split(",") if flags.distances else list(known)
  rates = [
    rate
    for rate in map(float, flags.rates.split(","))
    if rate >= 1 / len(sets.calibration)
  ]
  rows = {name: measure(name, known[name](), sets, rates) for name in names}
  for among, rate in rows[names[0]]:
    print(f"\nhonest images among {among} references, rate {rate:g}\n")
    head = ["found of", *COPIES, "false [95%]", "threshold"]
    print("| " + " | ".join(head) + " |\n" + "|---" * len(head) + "|")
    for name in names:
      print("| " + " | ".join([name, *rows[name][among, rate]]) + " |")


def mirrored_rms(images) -> float:
  """Median distance of images to their own mirror images."""
  difference = images.astype(np.int64) - images[:, :, ::-1]
  squared = np.square(difference).reshape(len(images), -1).sum(axis=1)
  return float(np.median(metrics.rms(squared, images[0].size)))


if __name__ == "__main__":
  main()
