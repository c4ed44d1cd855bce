# SPDX-License-Identifier: Apache-2.0
"""SSCD, a descriptor trained to detect copies (Pizzi et al., arXiv 2202.10261).

A ResNet (He et al., arXiv 1512.03385, with the stride in the 3 x 3
convolution), generalized mean pooling and one linear layer:

  v = W gem(f(x)) + b,   gem(f) = (mean over positions of max(f, 1e-6)^3)^(1/3),

compared by cosine. It runs in JAX on the weights alone: no code is loaded. The
published TorchScript files hold code and are not read; take the weights,
sscd_disc_mixup.torchvision.pt, whose names are those of torchvision's ResNet
(`diffmem.models.weights` reads .npz, .safetensors and .pt files of weights).
Depth, widths and groups are those of the weights.

Scores depend on how images are prepared, and those of one preparation do not
compare with those of another:

  official288  shorter side to 288, ImageNet mean and deviation (its authors)
  official320  both sides to 320, likewise
  dcr224       shorter side to 256, 224 x 224 of the middle, to [-1, 1]
               (studies of diffusion models since arXiv 2212.03860)
"""

import functools
import os
import re

import jax
import jax.numpy as jnp
import numpy as np

from diffmem.arrays import Float, UInt8
from diffmem.features import weights
from diffmem.features.protocol import Features
from diffmem.features.resizing import HALF, IMAGENET, Preparation
from diffmem.models.weights import read

PREPARATIONS = {
  "official288": Preparation(288, "bilinear", *IMAGENET),
  "official320": Preparation(320, "bilinear", *IMAGENET, square=True),
  "dcr224": Preparation(256, "bilinear", *HALF, crop=224),
}
POWER = 3.0  # of the pooling


def create(
  path: str | os.PathLike, *, preparation: str = "official288"
) -> Features:
  """SSCD with the weights of a file.

  Raises FileNotFoundError, ValueError: no such file, no such network.
  """
  if preparation not in PREPARATIONS:
    raise ValueError(
      f"preparation = {preparation!r}, expected one of "
      f"{', '.join(PREPARATIONS)}"
    )
  state = {
    name.removeprefix("backbone."): value for name, value in read(path).items()
  }
  depths = _depths(state, path)
  prepare = PREPARATIONS[preparation]
  params = {name: jnp.asarray(value) for name, value in state.items()}

  def embed(images: UInt8[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b d"]:
    return np.asarray(network(params, jnp.asarray(prepare(images)), depths))

  info = {"preparation": preparation, "weights": weights.digest(path)}
  return Features("sscd", embed, "cosine", info)


def _depths(state: dict, path) -> tuple[int, ...]:
  """Blocks of each of the four stages; ValueError for another network."""
  needed = ["conv1.weight", "bn1.running_var", "fc.weight", "fc.bias"]
  needed += [f"layer{i}.0.conv3.weight" for i in (1, 2, 3, 4)]
  missing = [name for name in needed if name not in state]
  if missing:
    raise ValueError(
      f"{path} is no ResNet of SSCD: it has no {missing[0]}; take the "
      "weights in torchvision's names (sscd_disc_mixup.torchvision.pt)"
    )
  blocks = (re.match(r"layer(\d)\.(\d+)\.", name) for name in state)
  numbers = [(int(b[1]), int(b[2])) for b in blocks if b]
  return tuple(max(j for i, j in numbers if i == s) + 1 for s in (1, 2, 3, 4))


@functools.partial(jax.jit, static_argnums=2)
def network(
  params: dict, x: Float[jax.Array, "b h w 3"], depths: tuple[int, ...]
) -> Float[jax.Array, "b d"]:
  """Vectors of prepared images, of length 1."""
  x = jax.nn.relu(_bn(params, "bn1", _conv(params, "conv1", x, 2)))
  x = jax.lax.reduce_window(
    x,
    -jnp.inf,
    jax.lax.max,
    (1, 3, 3, 1),
    (1, 2, 2, 1),
    ((0, 0), (1, 1), (1, 1), (0, 0)),
  )
  for stage, depth in enumerate(depths, 1):
    for block in range(depth):
      stride = 2 if stage > 1 and block == 0 else 1
      x = _bottleneck(params, f"layer{stage}.{block}", x, stride)
  x = jnp.mean(jnp.maximum(x, 1e-6) ** POWER, axis=(1, 2)) ** (1 / POWER)
  x = x @ params["fc.weight"].T + params["fc.bias"][None]
  return x / jnp.maximum(jnp.linalg.norm(x, axis=1, keepdims=True), 1e-12)


def _bottleneck(params: dict, name: str, x: jax.Array, stride: int):
  y = x
  for i, step in ((1, 1), (2, stride), (3, 1)):
    y = _bn(params, f"{name}.bn{i}", _conv(params, f"{name}.conv{i}", y, step))
    y = jax.nn.relu(y) if i < 3 else y
  if f"{name}.downsample.0.weight" in params:
    x = _conv(params, f"{name}.downsample.0", x, stride)
    x = _bn(params, f"{name}.downsample.1", x)
  return jax.nn.relu(x + y)


def _conv(params: dict, name: str, x: jax.Array, stride: int) -> jax.Array:
  kernel = params[f"{name}.weight"]  # [out in h w]
  pad = kernel.shape[2] // 2
  return jax.lax.conv_general_dilated(
    x,
    kernel,
    (stride, stride),
    ((pad, pad), (pad, pad)),
    dimension_numbers=("NHWC", "OIHW", "NHWC"),
    feature_group_count=x.shape[3] // kernel.shape[1],
  )


def _bn(params: dict, name: str, x: jax.Array) -> jax.Array:
  mean, var, scale, shift = (
    params[f"{name}.{part}"][None, None, None]
    for part in ("running_mean", "running_var", "weight", "bias")
  )
  return (x - mean) * (scale / jnp.sqrt(var + 1e-5)) + shift
