# SPDX-License-Identifier: Apache-2.0
"""A small network that learns, on the images given, to tell them apart.

Every image is a class of its own (Dosovitskiy et al., arXiv 1406.6909): the
network sees two altered views of each of `batch` images and is trained to name
the partner of every view among the others, with u the vectors of the views,
less their mean and of unit length, p(i) the partner of i and T = 0.1 (Chen et
al., arXiv 2002.05709)

  loss = -mean_i log(exp(<u_i, u_p(i)> / T) / sum_{j != i} exp(<u_i, u_j> / T)).

Views are cropped, mirrored, blurred, brightened, and noised copies: what
copies suffer. Vectors are compared by cosine. It needs no labels and no
download, and sees all sets that are compared alike: train it on members,
held-out and calibration images together, or members would be told apart better
than the others.
"""

import os
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from diffmem import workdir
from diffmem.arrays import AnyArray, Float, Key, UInt8
from diffmem.features import weights
from diffmem.features.protocol import Features, by_blocks
from diffmem.progress import Progress

SIDE = 32
TEMPERATURE = 0.1
WIDTH = 32
SIZE = 128  # values of a vector
RATE = 2e-3
CENTRED = 1024  # images whose mean vector is taken away


class Network(nnx.Module):
  """Three strided convolutions and a linear layer; positions are kept."""

  def __init__(self, channels: int, *, rngs: nnx.Rngs):
    w = WIDTH
    self.conv = nnx.List(
      [
        nnx.Conv(i, o, (k, k), strides=2, rngs=rngs)
        for i, o, k in ((channels, w, 4), (w, 2 * w, 3), (2 * w, 4 * w, 3))
      ]
    )
    self.norm = nnx.List(
      [nnx.GroupNorm(o, num_groups=8, rngs=rngs) for o in (w, 2 * w, 4 * w)]
    )
    self.out = nnx.Linear((SIDE // 8) ** 2 * 4 * w, SIZE, rngs=rngs)

  def __call__(self, x: Float[jax.Array, "b h w c"]) -> jax.Array:
    """Images in 0..1 -> vectors [b d], of any length."""
    x = (x - 0.5) * 4
    for conv, norm in zip(self.conv, self.norm, strict=True):
      x = nnx.relu(norm(conv(x)))
    return self.out(x.reshape(len(x), -1))


def create(
  images=None,
  path: str | os.PathLike | None = None,
  *,
  steps: int = 400,
  batch: int = 128,
  seed: int = 0,
  progress: bool = True,
) -> Features:
  """A trained network.

  images: uint8 [n h w c] to train on; path: an .npz of weights, read where it
  is there, else written after training; steps, batch, seed: of the training.
  Raises ValueError without images or weights, or for weights that do not fit.
  """
  file = None if path is None else workdir.path(path)
  if file is not None and file.exists():
    arrays = _read(file)
  elif images is None:
    raise ValueError(
      f"features 'classifier' have no weights at {path} and no images to train "
      "on: give one of them"
    )
  else:
    arrays = train(
      images, steps=steps, batch=batch, seed=seed, progress=progress
    )
    if file is not None:
      file.parent.mkdir(parents=True, exist_ok=True)
      weights.write(file, arrays)
  graph, params = _build(arrays["conv.0.kernel"].shape[2], 0)
  params = _filled(params, arrays)

  @jax.jit
  def embed_block(x):
    return _unit(nnx.merge(graph, params)(_resized(x)))

  def embed(images: UInt8[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b d"]:
    return by_blocks(embed_block, images)

  info = {"weights": weights.of_arrays(arrays)}
  return Features("classifier", embed, "cosine", info)


def train(
  images, *, steps: int, batch: int, seed: int, progress: bool = True
) -> dict[str, np.ndarray]:
  """Weights by name, trained on uint8 images [n h w c]."""
  n, batch = len(images), min(batch, len(images))
  if n < 2 or steps < 1:
    raise ValueError(
      f"training on {n} images for {steps} steps: expected at least 2 and 1"
    )
  graph, params = _build(images.shape[3], seed)
  warmup = min(50, steps // 4)
  optimizer = optax.adamw(
    optax.warmup_cosine_decay_schedule(0.0, RATE, warmup, steps),
    weight_decay=1e-4,
  )
  state = optimizer.init(params)

  @jax.jit
  def step(params, state, x, key):
    grads = jax.grad(_loss)(params, graph, _resized(x), key)
    updates, state = optimizer.update(grads, state, params)
    return optax.apply_updates(params, updates), state

  rng, key = np.random.default_rng(seed), jax.random.key(seed)
  with Progress(
    steps, what="classifier", unit="steps", enabled=progress
  ) as bar:
    for i in range(steps):
      rows = np.sort(rng.choice(n, batch, replace=False))
      x = jnp.asarray(images[rows])
      params, state = step(params, state, x, jax.random.fold_in(key, i))
      bar.update()
  arrays = _named(params)
  some = jnp.asarray(images[: min(n, CENTRED)])
  vectors = jax.jit(nnx.merge(graph, params).__call__)(_resized(some))
  arrays["out.bias"] = arrays["out.bias"] - np.asarray(vectors.mean(axis=0))
  return arrays


def _loss(params, graph, x: Float[jax.Array, "b h w c"], key) -> jax.Array:
  one, two = jax.random.split(key)
  views = jnp.concatenate([view(x, one), view(x, two)])
  u = nnx.merge(graph, params)(views)
  # Without what all have in common: all vectors start in one direction.
  u = _unit(u - u.mean(axis=0, keepdims=True))
  b = len(x)
  scores = u @ u.T / TEMPERATURE - 1e9 * jnp.eye(2 * b)
  partner = jnp.roll(jnp.arange(2 * b), b)
  return -jax.nn.log_softmax(scores)[jnp.arange(2 * b), partner].mean()


def _unit(u: Float[jax.Array, "b d"]) -> Float[jax.Array, "b d"]:
  return u / (jnp.linalg.norm(u, axis=1, keepdims=True) + 1e-6)


def view(
  x: Float[jax.Array, "b h w c"], key: Key[jax.Array, ""]
) -> Float[jax.Array, "b h w c"]:
  """An altered copy of each image, values around 0..1."""
  b, side = x.shape[:2]
  keys = jax.random.split(key, 9)
  uniform = jax.random.uniform
  size = side * uniform(keys[0], (b,), minval=0.75)
  rows = _sampling(uniform(keys[1], (b,)) * (side - size), size, side)
  columns = _sampling(uniform(keys[2], (b,)) * (side - size), size, side)
  flip = jax.random.bernoulli(keys[3], 0.5, (b, 1, 1))
  columns = jnp.where(flip, columns[:, ::-1], columns)
  y = jnp.einsum("bij,bjkc->bikc", rows, x)
  y = jnp.einsum("blk,bikc->bilc", columns, y)
  blurred = jax.image.resize(
    jax.image.resize(y, (b, side // 2, side // 2, y.shape[3]), "linear"),
    y.shape,
    "linear",
  )
  one = (b, 1, 1, 1)
  y = jnp.where(jax.random.bernoulli(keys[4], 0.3, one), blurred, y)
  contrast = jnp.exp(uniform(keys[5], one, minval=-0.25, maxval=0.25))
  offset = uniform(keys[6], one, minval=-0.1, maxval=0.1)
  y = jnp.clip((y - 0.5) * contrast + 0.5 + offset, 0, 1)
  noise = 0.03 * uniform(keys[7], one)
  return y + noise * jax.random.normal(keys[8], y.shape)


def _sampling(start: jax.Array, size: jax.Array, side: int) -> jax.Array:
  """[b side side]: linear interpolation of `size` pixels from `start` on."""
  place = (jnp.arange(side) + 0.5)[None] / side * size[:, None]
  place = start[:, None] + place - 0.5
  away = jnp.abs(place[:, :, None] - jnp.arange(side)[None, None])
  tents = jnp.maximum(0, 1 - away)
  return tents / tents.sum(axis=2, keepdims=True)


def _resized(x: UInt8[AnyArray, "b h w c"]) -> Float[jax.Array, "b s s c"]:
  shape = (len(x), SIDE, SIDE, x.shape[3])
  return jax.image.resize(x.astype(jnp.float32) / 255, shape, "linear")


def _build(channels: int, seed: int):
  return nnx.split(Network(channels, rngs=nnx.Rngs(seed)), nnx.Param)[:2]


def _named(params) -> dict[str, np.ndarray]:
  """conv.0.kernel and so on -> array."""
  leaves, _ = jax.tree_util.tree_flatten_with_path(nnx.to_pure_dict(params))
  return {
    ".".join(str(part.key) for part in where): np.asarray(leaf)
    for where, leaf in leaves
  }


def _filled(params, arrays: dict[str, np.ndarray]):
  expected = _named(params)
  if {k: v.shape for k, v in expected.items()} != {
    k: v.shape for k, v in arrays.items()
  }:
    raise ValueError(
      "the weights of features 'classifier' do not fit its network: delete the "
      "file to train anew"
    )
  pure = nnx.to_pure_dict(params)
  leaves, tree = jax.tree_util.tree_flatten_with_path(pure)
  named = [
    jnp.asarray(arrays[".".join(str(part.key) for part in where)])
    for where, _ in leaves
  ]
  nnx.replace_by_pure_dict(params, jax.tree_util.tree_unflatten(tree, named))
  return params


def _read(file) -> dict[str, np.ndarray]:
  try:
    with file.open("rb") as f, np.load(f, allow_pickle=False) as arrays:
      found = dict(arrays)
  except (ValueError, OSError, EOFError, zipfile.BadZipFile) as e:
    raise ValueError(f"{file} is no .npz of weights ({e})") from e
  if "conv.0.kernel" not in found:
    raise ValueError(f"{file} holds no weights of features 'classifier'")
  return found
