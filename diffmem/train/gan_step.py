# SPDX-License-Identifier: Apache-2.0
"""One training step of a GAN: D is moved `updates` times, then G once.

  D: mean_b real(D(A x)) + (1 - w) fake(D(A G(z))) + w fake(D(A T x))
  G: mean_b generator(D(A G(z)))

and penalties; x real images, z ~ N(0, I), A the augmentation (`gan_augment`),
T the negatives (`gan_negatives`, or none: w = 0). What is drawn is a function
of (key, step, update) alone. The generator's average follows its weights as in
`state`.

  state = {"step", "generator": live variables,
           "ema": {"generator": the average, "discriminator": as it is},
           "opt": {"generator", "discriminator"}, "augment", "path"}

where variables are {"params", "state"}. D and G are two jitted programs that
the host calls in turn; another of each has the lazy penalties in it. (Nothing
is in a branch or loop of XLA's, where gradients of convolutions are slow on a
CPU.) The state is donated.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from diffmem import arrays, keys, mesh
from diffmem.arrays import Key
from diffmem.train import gan_augment, gan_losses, gan_penalties
from diffmem.train import state as states
from diffmem.train import step as single

OF_D = ("r1", "gradient", "lipschitz")
OF_G = ("path_length",)
State = dict[str, Any]


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
  """What a step is composed of.

  Attributes:
    gan: generator and discriminator, see diffmem.models.gan.
    loss: of `gan_losses`.
    penalties: name -> {"weight", "every", and its options}.
    augment: of `gan_augment`.
    negatives: T, or None; share: its weight w.
    tx: the optimisers of "generator" and "discriminator".
    rate: the learning rate of the generator by step, for the metrics.
    updates: of D in a step.
    ema: the decay of the generator's average.
  """

  gan: Any
  loss: gan_losses.Loss
  penalties: Mapping[str, Mapping[str, Any]]
  augment: gan_augment.Augment
  negatives: Callable | None
  share: float
  tx: Mapping[str, optax.GradientTransformation]
  rate: optax.Schedule
  updates: int
  ema: float


def init(parts: Parts, key: Key[jax.Array, ""]) -> State:
  """A fresh state; see the module."""
  generator = parts.gan.generator.init(keys.stream(key, "generator"))
  discriminator = parts.gan.discriminator.init(
    keys.stream(key, "discriminator")
  )
  return {
    "step": jnp.zeros((), jnp.int32),
    "generator": generator,
    "ema": {
      "generator": jax.tree.map(jnp.copy, generator),
      "discriminator": discriminator,
    },
    "opt": {
      "generator": parts.tx["generator"].init(generator["params"]),
      "discriminator": parts.tx["discriminator"].init(discriminator["params"]),
    },
    "augment": parts.augment.init(),
    "path": jnp.zeros((), jnp.float32),
  }


def create(parts: Parts) -> Callable[..., tuple[State, dict[str, jax.Array]]]:
  """(state, batch, key, step) -> (state, metrics); step is the host's count.

  A batch has `updates` times as many images as an update of D sees.
  """
  make = functools.lru_cache(maxsize=None)(functools.partial(_jitted, parts))

  def step(state, batch, key, number):
    due = tuple(
      name for name, p in parts.penalties.items() if number % p["every"] == 0
    )
    metrics: dict[str, jax.Array] = {}
    run = make("discriminator", tuple(n for n in due if n in OF_D))
    for update in range(parts.updates):
      state, found = run(state, batch, key, np.int32(update))
      metrics |= found
    run = make("generator", tuple(n for n in due if n in OF_G))
    state, found = run(state, batch, key, np.int32(0))
    return state, metrics | found

  return step


def _jitted(parts: Parts, which: str, due: tuple[str, ...]) -> Callable:
  function = {"discriminator": _move_d, "generator": _move_g}[which]
  whole = mesh.replicated(mesh.data_mesh())
  rows = mesh.sharded(mesh.data_mesh())
  jitted = jax.jit(
    functools.partial(function, parts, due),
    in_shardings=(whole, rows, whole, whole),
    out_shardings=(whole, whole),
    donate_argnums=0,
  )
  return single.in_step(jitted)


def _move_d(
  parts: Parts, due: tuple[str, ...], state: State, batch: dict, key, update
) -> tuple[State, dict[str, jax.Array]]:
  now = keys.stream(key, "discriminator", state["step"], update)
  real, cond = _real(parts, batch, update)
  fake, _ = _generate(parts, state["generator"], cond, len(real), now)
  fake = jax.lax.stop_gradient(fake)
  own = state["ema"]["discriminator"]

  def mean_loss(params):
    see = _Seen(parts, params, own["state"], state["augment"], now)
    logits = see("real", real, cond)
    each = parts.loss.real(logits)
    each = each + (1.0 - parts.share) * parts.loss.fake(see("fake", fake, cond))
    if parts.negatives is not None:
      spoilt = parts.negatives(real, keys.stream(now, "negatives"))
      each = each + parts.share * parts.loss.fake(
        see("negatives", spoilt, cond)
      )
    loss, told = each.mean(), {"loss": each.mean()}
    after = see.state
    for name in due:
      value = _PENALTIES[name](
        see, real, fake, cond, now, parts.penalties[name]
      )
      told[name] = value.mean()
      weight = parts.penalties[name]["weight"] * parts.penalties[name]["every"]
      loss = loss + weight * told[name]
    return loss, (told, after, logits)

  grads, (told, after, logits) = jax.grad(mean_loss, has_aux=True)(
    own["params"]
  )
  params, opt = _moved(parts, "discriminator", own["params"], grads, state)
  told |= {
    "grad_norm": optax.tree.norm(grads),
    "signs": jnp.sign(logits).mean(),
    "p": state["augment"]["p"],
    "images": jnp.asarray(len(batch["image"])),
  }
  new = state | {
    "ema": state["ema"] | {"discriminator": {"params": params, "state": after}},
    "opt": state["opt"] | {"discriminator": opt},
    "augment": parts.augment.control(state["augment"], logits),
  }
  return new, told


def _move_g(
  parts: Parts, due: tuple[str, ...], state: State, batch: dict, key, update
) -> tuple[State, dict[str, jax.Array]]:
  now = keys.stream(key, "generator", state["step"])
  real, cond = _real(parts, batch, update)
  own, against = state["generator"], state["ema"]["discriminator"]

  def mean_loss(params):
    variables = {"params": params, "state": own["state"]}
    fake, after = _generate(parts, variables, cond, len(real), now)
    see = _Seen(
      parts, against["params"], against["state"], state["augment"], now
    )
    loss = parts.loss.generator(see("fake", fake, cond)).mean()
    told, path = {"loss_generator": loss}, state["path"]
    if "path_length" in due:
      options = parts.penalties["path_length"]
      value, length = _paths(
        parts, variables, cond, path, now, options, len(real)
      )
      told["path_length"] = value.mean()
      path = gan_penalties.follow(path, length, decay=options["decay"])
      weight = options["weight"] * options["every"]
      loss = loss + weight * told["path_length"]
    return loss, (told, after, path)

  grads, (told, after, path) = jax.grad(mean_loss, has_aux=True)(own["params"])
  params, opt = _moved(parts, "generator", own["params"], grads, state)
  generator = {"params": params, "state": after}
  average = states.average(
    state["ema"]["generator"], generator, state["step"], parts.ema
  )
  told |= {
    "grad_norm_generator": optax.tree.norm(grads),
    "lr": parts.rate(state["step"]),
  }
  new = state | {
    "step": state["step"] + 1,
    "generator": generator,
    "ema": state["ema"] | {"generator": average},
    "opt": state["opt"] | {"generator": opt},
    "path": path,
  }
  return new, told


class _Seen:
  """D on augmented images; its state goes from one call to the next."""

  def __init__(self, parts: Parts, params: Any, state: Any, augment: Any, now):
    self.parts, self.params, self.state = parts, params, state
    self._augment, self._now = augment, now

  def __call__(self, name: str, x, cond, *, keep: bool = True):
    key = keys.stream(self._now, name)
    x = self.parts.augment.apply(x, keys.stream(key, "augment"), self._augment)
    logits, after = self.parts.gan.discriminator.apply(
      {"params": self.params, "state": self.state},
      x,
      cond,
      key=keys.stream(key, "dropout"),
      train=True,
    )
    if keep:
      self.state = after
    return logits


def _r1(see: _Seen, real, fake, cond, now, options):
  del fake, now, options
  return gan_penalties.r1(lambda x: see("real", x, cond, keep=False), real)


def _gradient(see: _Seen, real, fake, cond, now, options):
  return gan_penalties.gradient(
    lambda x: see("between", x, cond, keep=False),
    real,
    fake,
    keys.stream(now, "between"),
    one_sided=options["one_sided"],
  )


def _lipschitz(see: _Seen, real, fake, cond, now, options):
  twice = None if cond is None else jnp.concatenate([cond, cond])
  return gan_penalties.lipschitz(
    lambda x: see("neighbours", x, twice, keep=False),
    jnp.concatenate([real, fake]),
    keys.stream(now, "neighbours"),
    **{name: options[name] for name in ("k", "xi", "least", "most")},
  )


_PENALTIES = {"r1": _r1, "gradient": _gradient, "lipschitz": _lipschitz}


def _paths(parts: Parts, variables, cond, mean, now, options, b):
  """The path length of the first images of a batch, over their latents."""
  count = max(b // options["shrink"], 1)
  few = None if cond is None else cond[:count]
  key = keys.stream(now, "path")
  z = jax.random.normal(keys.stream(key, "z"), (count, parts.gan.latent))

  def images(latents):
    return parts.gan.generator.apply(
      variables, latents, few, key=keys.stream(key, "noise"), train=True
    )[0]

  return gan_penalties.path_length(images, z, mean, keys.stream(key, "y"))


def _real(parts: Parts, batch: dict, update) -> tuple[Any, Any]:
  """(images in [-1, 1], classes or None) of one update of D."""

  def of(rows):
    # Every device has a part of every update.
    return rows.reshape(-1, parts.updates, *rows.shape[1:])[:, update]

  labelled = parts.gan.num_classes is not None
  cond = of(batch["label"]).astype(jnp.int32) if labelled else None
  return arrays.from_uint8(of(batch["image"])), cond


def _generate(parts: Parts, variables, cond, b: int, now) -> tuple[Any, Any]:
  """(images, state of the generator)."""
  z = jax.random.normal(keys.stream(now, "z"), (b, parts.gan.latent))
  return parts.gan.generator.apply(
    variables, z, cond, key=keys.stream(now, "noise"), train=True
  )


def _moved(parts: Parts, which: str, params, grads, state) -> tuple[Any, Any]:
  """(params, state of the optimiser) after a step along the gradient."""
  updates, opt = parts.tx[which].update(grads, state["opt"][which], params)
  return optax.apply_updates(params, updates), opt
