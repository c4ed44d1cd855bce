# SPDX-License-Identifier: Apache-2.0
"""What the surrogate conditions are trained on, per example.

With x0 a synthetic image, y its pseudo-label, t ~ U{0..T-1} and
x_t = sqrt(ab_t) x0 + sqrt(1 - ab_t) eps (Chen et al., arXiv 2410.02467,
algorithm 1; the distillation is that of its first version, arXiv 2406.12752,
as far as it is known):

  plain      -log p(y | x0)
  scratch    -log p(y | x_t, t)
  distilled  KL(softmax(teacher(x0) / tau) || softmax(student(x_t, t) / tau)),
             the student starting as the teacher, a plain classifier
  lora       |eps - eps'(x_t, t, y)|^2, mean over pixels, eps' the model with
             adapters and a table of classes

With smoothing a, log p(y) stands for (1 - a) log p(y) + a mean_k log p(k).
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from diffmem import arrays, keys
from diffmem.arrays import AnyArray, Float, Int, Key, UInt8
from diffmem.diffusion import losses, process
from diffmem.diffusion.schedules import Schedule
from diffmem.models import Model, lora
from diffmem.models.classifier import Classifier
from diffmem.train.fitting import Loss


def classify(
  classifier: Classifier, schedule: Schedule, *, smoothing: float
) -> Loss:
  """Cross-entropy; of noised images where the classifier is timed."""

  def loss(params, frozen, batch, key):
    del frozen
    x0, t, eps = draw(batch["image"], key, schedule.steps)
    if classifier.timed:
      x = process.add_noise(x0, eps, t, schedule.alpha_bar)
    else:
      x, t = x0, jnp.zeros_like(t)
    log_p = jax.nn.log_softmax(classifier.apply(params, x, t))
    own = jnp.take_along_axis(log_p, batch["label"][:, None], axis=1)[:, 0]
    return -(1.0 - smoothing) * own - smoothing * log_p.mean(axis=1)

  return loss


def distil(
  student: Classifier,
  teacher: Classifier,
  schedule: Schedule,
  *,
  temperature: float,
) -> Loss:
  """What the teacher, whose weights are frozen, says of the clean image."""

  def loss(params, frozen, batch, key):
    x0, t, eps = draw(batch["image"], key, schedule.steps)
    x_t = process.add_noise(x0, eps, t, schedule.alpha_bar)
    taught = teacher.apply(frozen, x0, jnp.zeros_like(t)) / temperature
    taught = jax.nn.log_softmax(taught)
    said = jax.nn.log_softmax(student.apply(params, x_t, t) / temperature)
    return jnp.sum(jnp.exp(taught) * (taught - said), axis=1)

  return loss


def adapt(
  apply: Callable[..., Any], schedule: Schedule, *, prediction: str
) -> Loss:
  """The denoising loss of apply({"frozen", "trained"}, x_t, t, label)."""

  def loss(params, frozen, batch, key):
    x0, t, eps = draw(batch["image"], key, schedule.steps)

    def network(x_t, t, label):
      weights = {"frozen": frozen, "trained": params}
      return apply(weights, x_t, t, label)

    return losses.denoising_loss(
      network,
      x0,
      t,
      eps,
      batch["label"],
      schedule=schedule,
      prediction=prediction,
    )

  return loss


def adapted(
  model: Model, *, alpha: float, learned_variance: bool
) -> Callable[..., Any]:
  """Apply of a conditional model around frozen weights without conditions.

  model: the network with classes. Of ({"frozen", "trained"}, x_t, t, label):
  frozen are the weights of the same network without classes, trained holds
  "adapters" and the "table" of classes. A variance that it predicts is left
  out.
  """

  def apply(weights, x_t, t, label):
    trained = weights["trained"]
    params = lora.merge(weights["frozen"], trained["adapters"], alpha=alpha)
    params = {**params, "embed": {**params["embed"], "table": trained["table"]}}
    y = model.apply(params, x_t, t, label)
    return process.split_output(y)[0] if learned_variance else y

  return apply


def adapters(
  model: Model, frozen: dict[str, Any], *, rank: int, kinds: Sequence[str]
) -> Callable[[Key[jax.Array, ""]], dict[str, Any]]:
  """Key -> fresh {"adapters", "table"}, around these weights.

  model: the network with classes. The adapted one starts as the frozen one,
  whatever the class.
  """
  table = jax.eval_shape(model.init, jax.random.key(0))["embed"]["table"]

  def init(key: Key[jax.Array, ""]) -> dict[str, Any]:
    made = lora.init(frozen, key, rank=rank, kinds=kinds)
    return {"adapters": made, "table": jnp.zeros(table.shape, jnp.float32)}

  return init


def draw(
  image: UInt8[AnyArray, "b h w c"], key: Key[jax.Array, ""], steps: int
) -> tuple[
  Float[jax.Array, "b h w c"], Int[jax.Array, " b"], Float[jax.Array, "b h w c"]
]:
  """(x0, t, eps) of a batch of uint8 images."""
  x0 = arrays.from_uint8(image)
  t = jax.random.randint(keys.stream(key, "t"), (len(x0),), 0, steps)
  return x0, t, jax.random.normal(keys.stream(key, "eps"), x0.shape)
