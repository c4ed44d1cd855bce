# SPDX-License-Identifier: Apache-2.0
"""The same work done here and by peers: scores, neighbours, samples.

  python benchmarks/peers.py                     # all three
  python benchmarks/peers.py scores neighbours   # some of them
  python benchmarks/peers.py quality --seeds=3 --steps=4000

  scores      SecMI, PIA and PIAN of the network of digits.py, trained here,
              against the formulas in PyTorch (tests/torch_attacks.py) on the
              same weights, in float32 and in float64
  neighbours  `distances.nearest` against faiss's IndexFlatL2: which ids
              differ, and why. How fast both are says nearest.py
  quality     a DDPM trained here against one trained in PyTorch
              (tests/torch_ddpm.py): the same network, data, steps and sampler,
              seed by seed; Frechet distances, and extraction of both banks

It needs "diffmem[bench,torch]". What was trained and drawn is kept in
--workdir and not made again.
"""

import argparse
import os
import pathlib
import sys

import numpy as np

ROOT = str(pathlib.Path(__file__).resolve().parent.parent)
DIGITS = f"{ROOT}/configs/digits.py"
TIMES = (30, 100)
SOME = 128  # images that are scored in float64, too


def config(seed, steps):
  """digits.py as plain sections, with so many steps of training."""
  from diffmem.bin import program

  found = program.load_config(f"{DIGITS}:seed={seed}")
  found.train.update(steps=steps, warmup=min(found.train.warmup, steps))
  return found.to_dict()


def train_here(root, sections):
  """The train stage."""
  from diffmem.train import run as fit

  own = {k: sections[k] for k in ("data", "models", "diffusion", "train")}
  fit.run(root, seed=sections["seed"], progress=False, **own)


def training_images(dataset, split):
  """uint8 images as often as they stand in training."""
  return dataset.images[np.searchsorted(dataset.ids, split.training_rows)]


def options(train):
  """What tests/torch_ddpm.py takes of a train section."""
  names = ("steps", "batch", "lr", "warmup", "clip", "ema")
  return {name: train[name] for name in names}


def save(file, arrays):
  """An npz, whole or not at all."""
  whole = file.with_suffix(".part.npz")
  np.savez(whole, **arrays)
  os.replace(whole, file)


# --- scores ------------------------------------------------------------------


def compare_scores(root, steps):
  """Prints a line for each attack and time."""
  import jax
  import scipy.stats
  import torch

  from diffmem import data, membership, stats
  from diffmem.denoiser import trained
  from tests import torch_attacks, torch_ddpm, torch_digits

  train_here(root, config(0, steps))
  dataset, split = data.read(root / "data")
  denoiser = trained.load(root)
  network = torch_digits.converted(jax.tree.map(np.asarray, denoiser.params))
  once = split.members[split.copies == 1]
  images = dataset.take(np.concatenate([once, split.held_out]))
  a = len(once)
  x = torch_ddpm.to_floats(images)
  pixels = images.transpose(0, 3, 1, 2).astype(np.float64)
  exact = torch.from_numpy(pixels[:SOME] / 127.5 - 1)
  attacks = {
    "secmi": (torch_attacks.secmi, {}),
    "pia": (torch_attacks.pia, {}),
    "pian": (torch_attacks.pia, {"normalised": True}),
  }
  print(f"\nscores: {a} members seen once, {len(split.held_out)} held out")
  print(
    "attack    t   apart   from float64: ours  torch   Spearman   AUC here"
    "                  AUC, TPR@1% by 2,000 thresholds"
  )
  for name, (theirs, extra) in attacks.items():
    ours = -membership.score(name, denoiser, images, t=TIMES, progress=False)
    for column, t in zip(ours.T, TIMES, strict=True):
      single = theirs(network, x, t, **extra)
      torch.set_default_dtype(torch.float64)  # of the waves of t
      double = theirs(network.double(), exact, t, **extra)
      torch.set_default_dtype(torch.float32)
      network.float()
      found = stats.summary(-column[:a], -column[a:], fprs=(0.01,), seed=0)
      grid = torch_attacks.on_a_grid(single[:a], single[a:])
      print(
        f"{name:6} {t:4} {apart(column, single):8.1e}"
        f" {apart(column[:SOME], double):14.1e}"
        f" {apart(single[:SOME], double):8.1e}"
        f" {scipy.stats.spearmanr(column, single).statistic:10.7f}"
        f"   {found['auc'][0]:.4f} ({found['auc'][1]:.3f} to"
        f" {found['auc'][2]:.3f}), {found['tpr@0.01'][0]:.3f}"
        f"   {grid[0]:.4f}, {grid[1]:.3f}",
        flush=True,
      )


def apart(one, other):
  """Largest relative difference."""
  return np.max(np.abs(one / other - 1))


# --- neighbours --------------------------------------------------------------


def families(seed=0, d=3072):
  """(queries, references): random images among references that are near them.

  Of each of 512 images the references hold an exact copy, one with a value
  one level off, and one with 64 values one level off; 2,560 are unrelated.
  Half of the 1,024 queries are the images, half are others.
  """
  rng = np.random.default_rng(seed)
  bases = rng.integers(1, 255, (512, d), np.uint8)
  near, far = bases.copy(), bases.copy()
  near[np.arange(512), rng.integers(d, size=512)] += 1
  for row in far:
    row[rng.choice(d, 64, replace=False)] -= 1
  others = rng.integers(0, 256, (2560 + 512, d), np.uint8)
  references = np.concatenate([bases, near, far, others[:2560]])
  queries = np.concatenate([bases, others[2560:]])
  return queries, references[rng.permutation(len(references))]


def compare_neighbours(k=10):
  """Prints what faiss finds otherwise, on both kinds of images."""
  import faiss

  from diffmem import data, distances
  from diffmem.distances import metrics

  digits = data.load("digits").images.reshape(1797, -1)
  print(f"\nneighbours: faiss {faiss.__version__}, IndexFlatL2, top-{k}")
  for name, (queries, references) in {
    "digits, 64 values": (digits, digits),
    "synthetic, 3,072 values": families(),
  }.items():
    ours = distances.nearest(queries, references, k)
    copies = ours.squared[:, 0] == 0
    print(f"{name}: {len(queries)} queries, {len(references)} references,")
    print(f"  {copies.sum()} queries have an exact copy")
    for text, scale, shift in (("0..255", 1, 0), ("-1..1", 127.5, 1)):
      index = faiss.IndexFlatL2(queries.shape[1])
      index.add(references.astype(np.float32) / scale - shift)
      squared, ids = index.search(queries.astype(np.float32) / scale - shift, k)
      true = np.stack(
        [
          metrics.squared(queries[i : i + 1], references[row])[0]
          for i, row in enumerate(ids)
        ]
      )
      other = (ids != ours.ids).any(axis=1)
      worse = (np.sort(true, axis=1) != ours.squared).any(axis=1)
      order = np.any(np.diff(true, axis=1) < 0, axis=1) & ~worse
      lost = copies & (true[:, 0] > 0)
      error = np.abs(squared * scale**2 - true)
      print(
        f"  of values in {text}: ids differ for {other.sum()} queries: other"
        f" neighbours {worse.sum()}, wrong order {order.sum()}, ties alone"
        f" {(other & ~worse & ~order).sum()}\n"
        f"    exact copies: {lost.sum()} not first,"
        f" {(squared[copies, 0] != 0).sum()} first distances not 0;"
        f" squared distances off by up to {error.max():.3g}",
        flush=True,
      )


# --- quality -----------------------------------------------------------------


def draw_here(root, sections, n):
  """A bank of the product's own training."""
  from diffmem.sample import run as sampling

  train_here(root, sections)
  sample = sections["sample"] | {"n": n}
  sampling.run(root, seed=sections["seed"], sample=sample, progress=False)


def draw_in_torch(root, sections, n):
  """A bank of PyTorch's training, brought in as images from outside."""
  import torch

  from diffmem import data, workdir
  from diffmem.sample import imports
  from tests import torch_ddpm, torch_digits

  seed, train = sections["seed"], sections["train"]
  dataset, split = data.prepare(
    workdir.path(root) / "data", seed=seed, **sections["data"]
  )
  file = root / f"images_{train['steps']}_{n}.npz"
  if not file.exists():
    made = torch_ddpm.initialised(
      torch_digits.network(), torch_digits.ZERO, seed
    )
    images = torch_ddpm.to_floats(training_images(dataset, split))
    average = torch_ddpm.train(made, images, **options(train), seed=seed)
    generator = torch.Generator().manual_seed(seed)
    start = torch.randn((n, *images.shape[1:]), generator=generator)
    steps = sections["sample"]["steps"]
    drawn = [torch_ddpm.ddim(average, x, steps) for x in start.split(512)]
    save(file, {"images": torch_ddpm.to_uint8(torch.cat(drawn))})
  with np.load(file) as arrays:
    imports.from_arrays(root, arrays["images"], progress=False)


def extracted(root, sections):
  """results.json of the extraction stage, by the rule of digits.py."""
  from diffmem import audit, workdir
  from diffmem.extraction import run as extraction

  common = dict(seed=sections["seed"], progress=False)
  section = {"distances": sections["distances"]}
  audit.find_neighbours(root, data=None, **section, **common)
  section = {"extraction": sections["extraction"]}
  extraction.run(root, **section, **common)
  return workdir.read_json(workdir.path(root) / "extraction" / "results.json")


def apart_from(held_out):
  """A function of images: the Frechet distance of their pixels to held_out's.

  At the number of held-out images, a mean over disjoint parts: it depends on
  how many there are.
  """
  from diffmem import quality

  def vectors(images):
    return images.reshape(len(images), -1) / 255.0

  def distance(images):
    size = len(held_out)
    parts = [images[i : i + size] for i in range(0, len(images), size)]
    return np.mean(
      [
        quality.frechet(vectors(part), vectors(held_out))
        for part in parts
        if len(part) == size
      ]
    )

  return distance


def compare_quality(root, seeds, steps, n):
  """Prints a line for each seed and side, and the controls."""
  from diffmem import data, open_bank

  sides = {"diffmem": draw_here, "torch": draw_in_torch}
  print(f"\nquality: {steps} steps, {n} images, DDIM")
  for seed in range(seeds):
    sections = config(seed, steps)
    for side, draw in sides.items():
      folder = root / f"{side}_{seed}"
      folder.mkdir(exist_ok=True)
      draw(folder, sections, n)
      found = extracted(folder, sections)
      dataset, split = data.read(folder / "data")
      distance = apart_from(dataset.take(split.held_out))
      if side == "diffmem":
        rng = np.random.default_rng(seed)
        replayed = rng.choice(training_images(dataset, split), n)
        report(seed, "members", distance(dataset.take(split.members)))
        report(seed, "replay", distance(replayed))
      report(seed, side, distance(open_bank(folder)[:]), found)


def report(seed, who, apart, found=None):
  """One line: distance to held-out images, and what was extracted."""
  text = f"seed {seed}  {who:8} Frechet {apart:.4f}"
  if found is not None:
    planted = ", ".join(
      f"x{copies} {hit}/{all_}"
      for copies, (hit, all_) in found["planted"].items()
    )
    text += (
      f"  extracted {found['unique']}, held out"
      f" {found['held_out']['unique']} of {found['searched']}"
      f" (delta {found['rule']['delta']:.3f}; {planted})"
    )
  print(text, flush=True)


def main():
  """Parses the command line."""
  parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
  parts = ("scores", "neighbours", "quality")
  parser.add_argument("parts", nargs="*", default=parts)
  parser.add_argument("--workdir", default="runs/peers", type=pathlib.Path)
  parser.add_argument("--steps", type=int, default=4000, help="of training")
  parser.add_argument("--seeds", type=int, default=3, help="of quality")
  parser.add_argument("--n", type=int, default=2048, help="images of quality")
  args = parser.parse_args()
  unknown = set(args.parts) - set(parts)
  if unknown:
    sys.exit(f"{unknown.pop()!r} is none of {', '.join(parts)}")
  sys.path.insert(0, ROOT)
  args.workdir.mkdir(parents=True, exist_ok=True)
  for part in args.parts:
    if part == "scores":
      compare_scores(args.workdir / "diffmem_0", args.steps)
    elif part == "neighbours":
      compare_neighbours()
    else:
      compare_quality(args.workdir, args.seeds, args.steps, args.n)


if __name__ == "__main__":
  main()
