# SPDX-License-Identifier: Apache-2.0
"""Denoising networks behind one pure interface.

Inside, layers are Flax NNX modules; outside there are two pure functions,

  params = model.init(key)                      nested dict of float32 arrays
  y = model.apply(params, x, t, cond, key=None)

with x [b h w c] in [-1, 1], t int32 [b] the schedule's index and cond

  None                     for a model without conditions
  int32 [b]                the class, `num_classes` being the null class
  {"tokens": [b l e],      a caption, where the mask is True; no caption is a
   "mask": bool [b l]}     mask that is False everywhere
  {.., "low": [b y x c],   for super-resolution, beside the caption if any: the
   "level": int32 [b]}     image to enlarge, and the level of noise added to it

(classifier-free guidance compares with the null class or no caption, which
`Model.null_cond` is, without the batch axis). y is float32 [b h w outputs]: c
channels, or 2c where the variance is learned. `key` draws dropout; None
evaluates.
"""

import dataclasses
import inspect
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from diffmem.arrays import AnyArray, Float, Int, Key
from diffmem.models import imagen, layers, mlp, presets, unet
from diffmem.models.choices import choose

__all__ = ["MODELS", "Model", "count", "create", "presets"]

MODELS = {"unet": unet.UNet, "mlp": mlp.MLP, "imagen": imagen.Imagen}
DTYPES = ("float32", "bfloat16")


@dataclasses.dataclass(frozen=True)
class Model:
  """A network as two pure functions; see the module's text.

  Attributes:
    text: (l, e) of the captions that it takes, or None.
    low: (y, x, c) of the images that it enlarges, or None.
  """

  name: str
  shape: tuple[int, int, int]
  outputs: int
  num_classes: int | None
  init: Callable[..., dict[str, Any]]
  apply: Callable[..., Float[jax.Array, "b h w o"]]
  text: tuple[int, int] | None = None
  low: tuple[int, int, int] | None = None

  @property
  def null_cond(self) -> Any:
    """The condition that means none, without the batch axis, or None."""
    if self.text is None:
      return self.num_classes
    return {
      "tokens": np.zeros(self.text, np.float32),
      "mask": np.zeros(self.text[0], bool),
    }


def create(
  name: str,
  *,
  shape: tuple[int, int, int],
  num_classes: int | None = None,
  learned_variance: bool = False,
  dtype: str = "float32",
  **knobs: Any,
) -> Model:
  """The network `name` for images of `shape` (h, w, c); allocates nothing.

  Raises ValueError for an unknown name, knob or dtype, and for a shape or
  knobs that do not fit together.
  """
  choose("model", name, MODELS)
  choose("dtype", dtype, DTYPES)
  network = MODELS[name]
  parameters = inspect.signature(network.__init__).parameters.values()
  options = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY]
  for knob in knobs:
    choose(f"knob of {name}", knob, options)
  shape = (int(shape[0]), int(shape[1]), int(shape[2]))
  outputs = shape[2] * (2 if learned_variance else 1)

  def build(draws):
    return network(shape, outputs, num_classes, dtype, draws, **knobs)

  counted = layers.Draws()
  graph, _ = nnx.split(nnx.eval_shape(lambda: build(counted)))

  @jax.jit  # one program, not one for each shape of a kernel
  def init(key: Key[jax.Array, ""]) -> dict[str, Any]:
    values = jax.random.uniform(key, (counted.used,), jnp.float32, -1.0, 1.0)
    return nnx.to_pure_dict(nnx.state(build(layers.Draws(values)), nnx.Param))

  def apply(
    params: dict[str, Any],
    x: Float[AnyArray, "b h w c"],
    t: Int[AnyArray, " b"],
    cond: Any,
    *,
    key: Key[jax.Array, ""] | None = None,
  ) -> Float[jax.Array, "b h w o"]:
    _check_inputs(model, x, cond)
    cond = jax.tree.map(jnp.asarray, cond)
    module = nnx.merge(graph, nnx.State(params))
    return module(jnp.asarray(x), jnp.asarray(t), cond, key)

  text, low = knobs.get("text"), knobs.get("low")
  model = Model(
    name,
    shape,
    outputs,
    num_classes,
    init,
    apply,
    text=None if text is None else (int(text[0]), int(text[1])),
    low=None if low is None else (low, shape[1] * low // shape[0], shape[2]),
  )
  return model


def count(params: Any) -> int:
  """Parameters in a tree of arrays or of their shapes."""
  return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(params))


def _check_inputs(model: Model, x, cond) -> None:
  if x.shape[1:] != model.shape:
    raise ValueError(
      f"images of shape {x.shape[1:]} given to a model of {model.shape} images"
    )
  if model.text is not None or model.low is not None:
    _check_tree(model, len(x), cond)
  elif model.num_classes is None and cond is not None:
    raise ValueError("this model has no conditions: pass cond=None")
  elif model.num_classes is not None and cond is None:
    raise ValueError(
      f"this model has {model.num_classes} classes: pass cond [b], where "
      f"{model.num_classes} is the null class"
    )


def _check_tree(model: Model, b: int, cond) -> None:
  """Refuses a condition without what the model takes, or of other shapes."""
  expected: dict[str, tuple[int, ...]] = {}
  if model.text is not None:
    expected |= {"tokens": (b, *model.text), "mask": (b, model.text[0])}
  if model.low is not None:
    expected |= {"low": (b, *model.low), "level": (b,)}
  given = (
    {k: v.shape for k, v in cond.items()} if isinstance(cond, dict) else {}
  )
  if given != expected:
    raise ValueError(f"this model takes cond={expected}, got {given or cond!r}")
