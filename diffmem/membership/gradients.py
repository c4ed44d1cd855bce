# SPDX-License-Identifier: Apache-2.0
"""Per-example gradient norms of every layer: how hard x pulls on the weights.

  each   g[i, t, l] = |grad_l of mean over draws j of loss(x_i, t, eps_tj)|^2
  mean   g[i, 0, l] = |grad_l of mean over t and j  of loss(x_i, t, eps_tj)|^2

l runs over the float arrays of the weights, in the order of `layers`; the
noise is that of the loss attack. "mean" is GSA1 (one gradient an image),
"each" averaged over t is GSA2 (one for each t). Pang et al., "White-box
Membership Inference Attacks against Diffusion Models", PoPETs 2025.

On CPU images go through the gradient one by one (a batch of weight gradients
is a grouped convolution, 4 times slower, and even without convolutions it is
1.6 times slower); elsewhere in groups whose gradients fit `GROUP` bytes.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from diffmem import mesh
from diffmem.arrays import AnyArray, Float
from diffmem.denoiser import Denoiser
from diffmem.diffusion.losses import denoising_loss
from diffmem.membership import signals

GROUP = 1 << 28  # bytes of per-example gradients at a time, on each device
NORMS = ("mean", "each")


def equidistant(steps: int, count: int = 10) -> tuple[int, ...]:
  """The middles of `count` equal parts of 0..steps-1."""
  signals.at_least_one(count=count)
  if count > steps:
    raise ValueError(f"{count} times of a schedule of {steps} steps: ask fewer")
  return tuple((2 * i + 1) * steps // (2 * count) for i in range(count))


def layers(params: Any) -> tuple[str, ...]:
  """Names of the arrays whose gradients are taken."""
  return tuple(
    jax.tree_util.keystr(path)
    for path, leaf in jax.tree_util.tree_leaves_with_path(params)
    if jnp.issubdtype(leaf.dtype, jnp.floating)
  )


def _block(queries, images, cond, *, t, draws, seed, norms):
  x0 = queries.encode(images)
  groups = [t] if norms == "mean" else [(s,) for s in t]
  found = []
  for times in groups:
    pairs = [(s, j) for s in times for j in range(draws)]
    eps = jnp.stack([queries.noise(seed, s, j) for s, j in pairs])
    at = jnp.asarray([s for s, _ in pairs], jnp.int32)
    found.append(_norms(queries, x0, cond, at, eps))
  return found


def _norms(queries, x0, cond, t, eps) -> Float[jax.Array, "b layers"]:
  leaves = jax.tree.leaves(queries.params)
  devices = leaves[0].sharding.mesh
  here = len(x0) // devices.size
  width = _width(leaves, here)
  out = mesh.shard(jnp.zeros((len(x0), len(layers(queries.params)))), devices)
  for start in range(0, here, width):
    out = queries.call(
      _step,
      out,
      x0,
      cond,
      t,
      eps,
      queries.number(start),
      width=width,
      devices=devices,
    )
  return out


def _width(leaves: list, rows: int) -> int:
  """Images at a time on one device; divides `rows`."""
  if jax.default_backend() == "cpu":
    return 1
  most = max(1, GROUP // sum(leaf.nbytes for leaf in leaves))
  return max(d for d in range(1, min(most, rows) + 1) if rows % d == 0)


def _step(
  denoiser, params, out, x0, cond, t, eps, start, *, width: int, devices
):
  """Fills rows start .. start + width - 1 of each device's share of out."""

  def local(params, out, x0, cond, t, eps, start):
    def rows(a):
      return jax.lax.dynamic_slice_in_dim(a, start, width)

    def one(x, c):
      return layer_norms(denoiser, params, x, c, t, eps)

    x0, cond = rows(x0), None if cond is None else rows(cond)
    if width == 1:
      one_cond = None if cond is None else cond[0]
      found = one(x0[0], one_cond)[None]
    else:
      found = jax.vmap(one)(x0, cond)
    return jax.lax.dynamic_update_slice_in_dim(out, found, start, axis=0)

  whole, split = P(), P(mesh.AXIS)
  return jax.shard_map(
    local,
    mesh=devices,
    in_specs=(whole, split, split, split, whole, whole, whole),
    out_specs=split,
    check_vma=False,  # else gradients of the common weights are summed
  )(params, out, x0, cond, t, eps, start)


def layer_norms(
  denoiser: Denoiser,
  params: Any,
  x0: Float[AnyArray, "h w c"],
  cond: Any,
  t: AnyArray,
  eps: Float[AnyArray, "k h w c"],
) -> Float[jax.Array, " layers"]:
  """|grad_l of the mean loss of one image over pairs (t, eps) [k]|^2."""
  leaves, tree = jax.tree.flatten(params)
  moving = [i for i, a in enumerate(leaves) if _is_float(a)]

  def repeated(a):
    return jnp.broadcast_to(a[None], (len(eps), *a.shape))

  def loss(chosen):
    every = list(leaves)
    for i, leaf in zip(moving, chosen, strict=True):
      every[i] = leaf
    weights = jax.tree.unflatten(tree, every)
    return denoising_loss(
      lambda x, s, c: denoiser.predict(weights, x, s, c)[0],
      repeated(x0),
      t,
      eps,
      None if cond is None else repeated(jnp.asarray(cond)),
      schedule=denoiser.schedule,
    ).mean()

  gradients = jax.grad(loss)([leaves[i] for i in moving])
  return jnp.stack([jnp.sum(g.astype(jnp.float32) ** 2) for g in gradients])


def _is_float(leaf: AnyArray) -> bool:
  return jnp.issubdtype(leaf.dtype, jnp.floating)


def _shape(denoiser, *, t, draws, seed, norms):
  signals.at_least_one(draws=draws)
  check_norms(norms)
  denoiser.require("params", "apply", by="the gradient attack")
  if not denoiser.traceable:
    raise ValueError(
      "the gradient attack needs a denoiser that JAX can trace, this one has "
      "traceable=False"
    )
  return (1 if norms == "mean" else len(t), len(layers(denoiser.params)))


def check_norms(name: str) -> None:
  """ValueError with the choices if there are no such norms."""
  if name not in NORMS:
    raise ValueError(f"norms {name!r}: choose one of {', '.join(NORMS)}")


SIGNAL = signals.Signal("gradients", _block, _shape)
