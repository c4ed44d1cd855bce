# SPDX-License-Identifier: Apache-2.0
"""Reconstruction: hide part of an image and let the model fill it in.

A model that remembers an image fills in what was there (Carlini et al. 2023,
arXiv:2301.13188, section 5.3). Candidates are made as in RePaint (Lugmayr et
al. 2022, arXiv:2201.09865, equation 8): after each reverse step t -> u,

  x_u = m (sqrt(ab_u) x0 + sqrt(1 - ab_u) eps) + (1 - m) step(x_t),

m being 1 where the image is known. From every `jump`-th level the result is
noised back by `jump` levels, `resample` - 1 times, so that both parts come to
agree; one such jump is a single draw from q(x_t | x_u).

Candidates are ranked by how much better the model denoises them than a shadow
model that never saw the target; without one, by the model's loss alone:

  score(c) = log L(c; shadow) - log L(c; model),   or   -log L(c; model)

with L the mean denoising loss at time t over `draws` of noise, the same for
all candidates and models. Higher means that the model remembers it.

What is hidden is set to zero before anything is computed.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from diffmem import arrays, keys, mesh
from diffmem.arrays import AnyArray, Bool, Float, Int, Key, UInt8
from diffmem.denoiser import Denoiser
from diffmem.diffusion import process, schedules, steppers
from diffmem.diffusion.losses import denoising_loss
from diffmem.extraction import inpaint_mask


@dataclasses.dataclass(frozen=True, eq=False)
class Candidates:
  """Completions of one target, in the order of their ids 0 .. n-1.

  images: with the known pixels as they were. scores: higher means that the
  model remembers it. losses: of the model.
  """

  images: UInt8[np.ndarray, "n h w c"]
  scores: Float[np.ndarray, " n"]
  losses: Float[np.ndarray, " n"]

  def best(self, keep: int) -> Int[np.ndarray, " k"]:
    """Ids of the highest scores, best first, ties by id."""
    return np.argsort(-self.scores, kind="stable")[:keep]


Attack = Callable[..., Candidates]


def attack(
  denoiser: Denoiser,
  known: Bool[np.ndarray, "h w 1"],
  *,
  candidates: int,
  batch: int,
  stepper: str,
  steps: int,
  eta: float,
  clip: bool,
  jump: int,
  resample: int,
  t: int,
  draws: int,
) -> Attack:
  """fn(params, image uint8 [h w c], key, shadow=None, cond=None) -> Candidates.

  Args:
    denoiser: the architecture; fn is given weights, those of the model under
      attack and of the shadow (or None), and compiles once for all.
    known: True where the attacker sees the image.
    candidates: completions of each image; batch: of them at a time. They are
      functions of (key, id) and of the image's known pixels.
    stepper, steps, eta, clip: of sampling, see `sample.chain.chain`.
    jump, resample: of RePaint; resample = 1 goes down once.
    t, draws: of the loss that ranks.

  fn's key: of this target. cond: one condition, without the batch axis.

  Raises:
    ValueError: options that do not fit, at once.
  """
  if denoiser.encode is not None or denoiser.decode is not None:
    raise ValueError(
      "the model works on latents, whose pixels a mask cannot hide: "
      "reconstruction needs a model of pixels"
    )
  inpaint_mask.check(known, denoiser.shape, "(given)")
  for name, value in (
    ("candidates", candidates),
    ("batch", batch),
    ("draws", draws),
  ):
    if value < 1:
      raise ValueError(f"{name}={value}: expected at least 1")
  denoiser.schedule.check(t)
  sample = repaint(
    denoiser,
    stepper=stepper,
    steps=steps,
    eta=eta,
    clip=clip,
    jump=jump,
    resample=resample,
  )
  devices = mesh.local_mesh(min(batch, jax.local_device_count()))
  batch = -(-batch // devices.size) * devices.size

  def complete(params, shadow, image, ids, key, cond):
    visible = jnp.where(known, arrays.from_uint8(image), 0.0)
    if cond is not None:
      cond = jax.tree.map(
        lambda leaf: jnp.broadcast_to(leaf[None], (len(ids), *leaf.shape)), cond
      )
    made = sample(params, visible, known, ids, key, cond)
    pixels = jnp.where(known[None], image[None], arrays.to_uint8(made))
    x0 = arrays.from_uint8(pixels)
    own = _loss(denoiser, params, x0, t, draws, key, cond)
    other = jnp.ones_like(own)
    if shadow is not None:
      other = _loss(denoiser, shadow, x0, t, draws, key, cond)
    return pixels, jnp.isfinite(made).all((1, 2, 3)), own, other

  if denoiser.traceable:
    complete = jax.jit(complete)

  def fn(params, image, key, shadow=None, cond=None):
    cond = jax.tree.map(jnp.asarray, cond)
    blocks = []
    for start in range(0, candidates, batch):
      ids = np.arange(start, start + batch, dtype=np.int32)
      ids = mesh.shard(ids, devices) if denoiser.traceable else ids
      made = complete(params, shadow, jnp.asarray(image), ids, key, cond)
      blocks.append(jax.device_get(made))
    pixels, finite, own, other = (
      np.concatenate(part)[:candidates] for part in zip(*blocks, strict=True)
    )
    if not (finite & np.isfinite(own) & np.isfinite(other)).all():
      raise FloatingPointError(
        "inpainting: a candidate is not finite; check the weights"
      )
    scores = np.log(other.astype(np.float64)) - np.log(own.astype(np.float64))
    return Candidates(pixels, scores, own)

  return fn


def repaint(
  denoiser: Denoiser,
  *,
  stepper: str,
  steps: int,
  eta: float,
  clip: bool,
  jump: int,
  resample: int,
) -> Callable[..., Float[jax.Array, "b h w c"]]:
  """fn(params, visible [h w c], known [h w 1], ids, key, cond=None) -> x0.

  The images [b h w c] equal `visible` where it is known. Arguments are those
  of `attack`.
  """
  method = steppers.create(stepper, eta=eta)
  if method.learned and not denoiser.learned_variance:
    raise ValueError(
      f"stepper {stepper!r} needs a model with learned_variance: choose "
      "ddpm_fixed_small or ddpm_fixed_large"
    )
  alpha_bar = denoiser.schedule.alpha_bar
  times = schedules.respace(denoiser.schedule.steps, steps)
  path = visits(steps, jump, resample)
  table = _table(alpha_bar, times, path)

  def sample(params, visible, known, ids, key, cond=None):
    id_keys = keys.per_id(key, ids)

    def normal(name, *ints):
      return jax.vmap(
        lambda k: jax.random.normal(keys.stream(k, name, *ints), denoiser.shape)
      )(id_keys)

    def predict(x, to):
      at = jnp.full(len(x), to.t, jnp.int32)
      return denoiser.predict(params, x, at, cond)

    def update(x, eps, fraction, row):
      n, to, back_signal, back_noise = row
      z = normal("step", n) if method.noisy else None
      x = method.step(x, eps, to, z, fraction, clip)
      seen = to.next_signal * visible[None]
      seen = seen + to.next_noise * normal("known", n)
      x = jnp.where(known[None], seen, x)
      return back_signal * x + back_noise * normal("back", n)

    def step(x, row):
      return update(x, *predict(x, row[1]), row), None

    x: Any = normal("start")
    if denoiser.traceable:
      return jax.lax.scan(step, x, table)[0]
    update = jax.jit(update)
    for n in range(len(path)):
      row = jax.tree.map(lambda column, n=n: jnp.asarray(column[n]), table)
      x = update(x, *predict(x, row[1]), row)
    return x

  return sample


def visits(
  steps: int, jump: int, resample: int
) -> list[tuple[int, int | None]]:
  """(level, level to go back to afterwards or None) of each reverse step.

  Levels count the visited times, steps - 1 the noisiest; each step goes one
  down, the last one from 0 to the image.
  """
  if not 1 <= jump <= steps:
    raise ValueError(f"jump={jump}: expected 1 to steps={steps}")
  if resample < 1:
    raise ValueError(f"resample={resample}: expected at least 1")
  left = dict.fromkeys(range(0, steps - jump, jump), resample - 1)
  path, level = [], steps - 1
  while level >= 0:
    back = None
    if left.get(level - 1, 0):
      left[level - 1] -= 1
      back = level - 1 + jump
    path.append((level, back))
    level = level - 1 if back is None else back
  return path


def _table(alpha_bar, times, path):
  """Rows for the loop: (number, coefficients, signal and noise to go back)."""
  levels = np.array([level for level, _ in path])
  down = process.reverse(alpha_bar, times)  # the noisiest first
  down = jax.tree.map(lambda column: column[len(times) - 1 - levels], down)
  kept = np.ones(len(path))
  for n, (level, back) in enumerate(path):
    if back is not None:
      kept[n] = alpha_bar[times[back]] / alpha_bar[times[level - 1]]
  signal = np.sqrt(kept).astype(np.float32)
  noise = np.sqrt(1.0 - kept).astype(np.float32)
  return np.arange(len(path), dtype=np.int32), down, signal, noise


def _loss(
  denoiser: Denoiser,
  params: Any,
  x0: Float[jax.Array, "b h w c"],
  t: int,
  draws: int,
  key: Key[jax.Array, ""],
  cond: Any,
) -> Float[jax.Array, " b"]:
  """The mean over draws of noise; the same noise for each candidate."""

  def one(j):
    eps = jax.random.normal(keys.stream(key, "rank", j), denoiser.shape)
    return denoising_loss(
      lambda x_t, times, c: denoiser.predict(params, x_t, times, c)[0],
      x0,
      jnp.full(len(x0), t, jnp.int32),
      jnp.broadcast_to(eps[None], x0.shape),
      cond,
      schedule=denoiser.schedule,
    )

  if not denoiser.traceable:
    return jnp.stack([one(j) for j in range(draws)]).mean(0)
  return jax.lax.map(one, jnp.arange(draws)).mean(0)


def distances(
  images: UInt8[AnyArray, "n h w c"],
  truth: UInt8[AnyArray, "h w c"],
  known: Bool[np.ndarray, "h w 1"],
) -> Float[np.ndarray, " n"]:
  """Root mean square over the hidden pixels alone, in [0, 1]."""
  gap = np.asarray(images, np.float64) - np.asarray(truth, np.float64)[None]
  hidden = ~np.broadcast_to(known, gap.shape[1:])
  return np.sqrt((gap[:, hidden] ** 2).mean(1)) / 255.0
