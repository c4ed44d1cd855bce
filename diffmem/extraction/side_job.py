# SPDX-License-Identifier: Apache-2.0
"""SIDE up to its banks: it sees the model and what it makes, nothing else.

Surrogate conditions (Chen et al., arXiv 2410.02467, algorithm 1) for a model
that takes none. Each step leaves its results in the folder and goes on where
it was stopped:

  synthetic/images   images of the model, by its own sampler
  features/          what the clustering sees of them
  clusters.npz       centres, cohesion, the pseudo-label of each image
  plain/, ...        what each method trained: checkpoints, metrics
  accuracy.json      of the classifiers, by noise level, on images set aside
  banks/unguided     n images of the model, unguided: scale 0
  banks/METHOD       n images at each scale, one scale after another

Image i of every bank at every scale starts from the same noise, and is guided
to the same cluster, drawn uniformly by i. Nothing here reads training data.
"""

import dataclasses
import functools
import io
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from etils import epath

from diffmem import features as embeddings
from diffmem import keys, store, workdir
from diffmem.arrays import Float, Int, UInt8
from diffmem.data import streams
from diffmem.denoiser import Denoiser, guided
from diffmem.diffusion import process
from diffmem.extraction import side_clusters, side_losses
from diffmem.extraction.side_clusters import Clusters
from diffmem.features import run as embedding
from diffmem.models import Model, classifier
from diffmem.sample import bank, chain
from diffmem.train import fitting

METHODS = ("scratch", "distilled", "plain", "lora")
TIMES = 10  # noise levels at which accuracy is told


@dataclasses.dataclass(frozen=True)
class Target:
  """The model under attack, and what else is known of it.

  denoiser: the model; conditional: how many classes -> the same network with
  so many, for adapters; None where the network is not ours.
  """

  denoiser: Denoiser
  conditional: Callable[[int], Model] | None = None


def check(side: dict) -> None:
  """ValueError where the config section cannot be run."""
  for name in ("synthetic", "n"):
    if side[name] < 1:
      raise ValueError(f"side.{name} = {side[name]}, expected at least 1")
  unknown = [m for m in side["methods"] if m not in METHODS]
  if unknown or not side["methods"]:
    raise ValueError(
      f"side.methods = {tuple(side['methods'])}, expected some of "
      f"{', '.join(METHODS)}"
    )
  scales = side["scales"]
  if not scales or min(scales) <= 0 or len(set(scales)) < len(scales):
    raise ValueError(
      f"side.scales = {tuple(scales)}, expected distinct positive numbers; 0, "
      "the model unguided, is always there"
    )
  if not 0 < side["training"]["aside"] < 1:
    raise ValueError(
      f"side.training.aside = {side['training']['aside']}, expected a share "
      "between 0 and 1"
    )
  count = side["clusters"]["clusters"]
  if side["synthetic"] < count:
    raise ValueError(
      f"side.clusters.clusters = {count}, but side.synthetic = "
      f"{side['synthetic']} images: raise the one or lower the other"
    )
  options = {k: v for k, v in side["training"].items() if k != "aside"}
  fitting.check(options)


class Job:
  """The steps on one model; `run` does them all.

  folder: of the stage; target: the model; seed: of everything random;
  side: the config section.
  """

  def __init__(
    self,
    folder: epath.Path,
    target: Target,
    *,
    seed: int,
    side: dict,
    progress: bool,
  ):
    check(side)
    self.folder, self.target = folder, target
    self.denoiser = target.denoiser
    self.seed, self.side, self.progress = seed, side, progress
    self.key = keys.stream(keys.root(seed), "side")
    self._trained: dict[str, Any] = {}

  def run(self) -> None:
    """Everything up to the banks."""
    self.clusters()
    for method in self.side["methods"]:
      self.weights(method)
    self.accuracy()
    for name in ("unguided", *self.side["methods"]):
      self.bank(name)

  @functools.cached_property
  def synthetic(self) -> UInt8[np.ndarray, "n h w c"]:
    """Images of the model; one seed of the bank's is never one of theirs."""
    images = self._store("synthetic", self.side["synthetic"])
    self._fill(images, self._unguided(), self.denoiser.params, "synthetic")
    return images[:]

  def clusters(self) -> Clusters:
    """Of the synthetic images, made or read."""
    file = self.folder / "clusters.npz"
    if not file.exists():
      made = side_clusters.cluster(
        self._features(),
        seed=streams.derived(self.seed, "side clusters") % 2**32,
        **self.side["clusters"],
      )
      packed = io.BytesIO()
      np.savez(packed, **vars(made))
      workdir.write_bytes(file, packed.getvalue())
    with np.load(io.BytesIO(file.read_bytes()), allow_pickle=False) as arrays:
      return Clusters(**arrays)

  def weights(self, method: str) -> Any:
    """What the method trained, trained or read."""
    if method not in self._trained:
      self._trained[method] = self._train(method)
    return self._trained[method]

  def guided(self, method: str) -> Denoiser:
    """The model guided by a method; cond is a `guided.Target`."""
    weights = self.weights(method)
    if method == "lora":
      apply = self._adapted()
      convert = functools.partial(
        _eps, apply, self.denoiser.schedule, self.denoiser.prediction
      )
      params = {"frozen": self.denoiser.params, "trained": weights}
      return guided.by_adapters(self.denoiser, convert, params)
    made = self._classifier(method != "plain")
    return guided.by_classifier(self.denoiser, made.apply, weights)

  def bank(self, name: str) -> store.Store:
    """The images: n, or for a method n at each scale, scale after scale."""
    n, scales = self.side["n"], self.side["scales"]
    if name == "unguided":
      images = self._store(f"banks/{name}", n)
      self._fill(images, self._unguided(), self.denoiser.params, "bank")
      return images
    images = self._store(f"banks/{name}", n * len(scales))
    if not images.complete():
      made = self.guided(name)
      draw = self._sampler(made)
      values = np.asarray(scales, np.float32)

      def generate(params, ids, key):
        own = ids % n
        target = guided.Target(
          self._aims(own, key), jnp.asarray(values)[ids // n]
        )
        return draw(params, own, key, target)

      self._fill(images, generate, made.params, "bank")
    return images

  def aims(self, ids: Int[np.ndarray, " b"]) -> Int[np.ndarray, " b"]:
    """The clusters that images of a bank were guided to."""
    return np.asarray(self._aims(jnp.asarray(ids), self._stream("bank")))

  def accuracy(self) -> dict:
    """Of each classifier on the synthetic images set aside, by t."""
    file = self.folder / "accuracy.json"
    if not file.exists():
      workdir.write_json(file, self._accuracy())
    return workdir.read_json(file)

  def _features(self) -> Float[np.ndarray, "n d"]:
    options = dict(self.side["features"])
    options = {k: v for k, v in options.items() if v is not None}
    if options["name"] == "classifier":
      options |= {"images": self.synthetic, "seed": self.seed}
      options["path"] = self.folder / "features.npz"
    made = embeddings.create(**options)
    return embedding.embed_set(
      self.folder / "features", self.synthetic, made, progress=self.progress
    )[:]

  def _train(self, method: str) -> Any:
    """One fit of the method, in its folder."""
    schedule, side = self.denoiser.schedule, self.side
    frozen = None
    if method == "lora":
      init, frozen = self._adapters(), self.denoiser.params
      loss = side_losses.adapt(
        self._adapted(), schedule, prediction=self.denoiser.prediction
      )
    elif method == "distilled":
      student, teacher = self._classifier(True), self._classifier(False)
      frozen = self.weights("plain")
      init = functools.partial(_student, student, frozen)
      loss = side_losses.distil(
        student, teacher, schedule, temperature=side["temperature"]
      )
    else:
      made = self._classifier(method == "scratch")
      init = made.init
      loss = side_losses.classify(made, schedule, smoothing=side["smoothing"])
    train, _ = self._parts()
    labels = self.clusters().labels
    options = {k: v for k, v in side["training"].items() if k != "aside"}
    return fitting.fit(
      self.folder / method,
      init=init,
      loss=loss,
      frozen=frozen,
      images=self.synthetic[train],
      labels=labels[train],
      seed=streams.derived(self.seed, f"side {method}"),
      key=keys.stream(self.key, method),
      progress=self.progress,
      **options,
    )

  def _parts(self) -> tuple[Int[np.ndarray, " a"], Int[np.ndarray, " b"]]:
    """Rows of the synthetic images: to train on, and set aside."""
    n = self.side["synthetic"]
    order = streams.permutation(n, self.seed, "side aside")
    aside = min(max(1, round(n * self.side["training"]["aside"])), n - 1)
    return np.sort(order[aside:]), np.sort(order[:aside])

  def _classifier(self, timed: bool) -> classifier.Classifier:
    return classifier.create(
      **self.side["classifier"],
      shape=self.denoiser.shape,
      classes=len(self.clusters()),
      timed=timed,
    )

  def _conditional(self) -> Model:
    """The network with classes; refused where it is not ours."""
    known = self.target.conditional is not None
    if not known or self.denoiser.num_classes is not None:
      raise ValueError(
        "side.methods has 'lora', which needs a network of diffmem that has "
        "no classes of its own: leave it out"
      )
    assert self.target.conditional is not None
    return self.target.conditional(len(self.clusters()))

  def _adapters(self) -> Callable:
    options = {k: v for k, v in self.side["lora"].items() if k != "alpha"}
    return side_losses.adapters(
      self._conditional(), self.denoiser.params, **options
    )

  def _adapted(self) -> Callable:
    return side_losses.adapted(
      self._conditional(),
      alpha=self.side["lora"]["alpha"],
      learned_variance=self.denoiser.learned_variance,
    )

  def _accuracy(self) -> dict:
    _, aside = self._parts()
    schedule, labels = self.denoiser.schedule, self.clusters().labels[aside]
    times = np.linspace(0, schedule.steps - 1, TIMES).astype(int)
    found: dict[str, Any] = {"t": times, "images": len(aside)}
    for method in self.side["methods"]:
      if method == "lora":
        continue
      made = self._classifier(method != "plain")
      params, right = self.weights(method), []

      @jax.jit
      def says(params, images, t, key, apply=made.apply):
        x0, _, eps = side_losses.draw(images, key, 1)
        x_t = process.add_noise(x0, eps, t, schedule.alpha_bar)
        return jnp.argmax(apply(params, x_t, t), axis=1)

      for i, at in enumerate(times):
        key = keys.stream(self.key, "accuracy", i)
        t = np.full(len(aside), at, np.int32)
        said = says(params, self.synthetic[aside], t, key)
        right.append(float(np.mean(np.asarray(said) == labels)))
      found[method] = right
    return found

  def _stream(self, name: str) -> jax.Array:
    return keys.stream(self.key, name)

  def _aims(self, ids: Any, key: jax.Array) -> jax.Array:
    count = len(self.clusters())
    return jax.vmap(
      lambda k: jax.random.randint(keys.stream(k, "cluster"), (), 0, count)
    )(keys.per_id(key, ids))

  def _sampler(self, denoiser: Denoiser) -> chain.Sampler:
    known = ("stepper", "steps", "eta", "clip")
    options = {k: self.side["sampler"][k] for k in known}
    return chain.chain(denoiser, guidance=1.0, **options)

  def _unguided(self) -> Callable:
    draw, null = self._sampler(self.denoiser), self.denoiser.null_cond

    def generate(params, ids, key):
      cond = None
      if null is not None:
        cond = jax.tree.map(
          lambda one: jnp.broadcast_to(
            jnp.asarray(one), (len(ids), *np.shape(one))
          ),
          null,
        )
      return draw(params, ids, key, cond)

    return generate

  def _store(self, name: str, n: int) -> store.Store:
    h, w, c = self.denoiser.shape
    return store.create(
      self.folder / name / "images",
      shape=(n, h, w, c),
      dtype=np.uint8,
      chunk=min(self.side["sampler"]["batch"], n),
    )

  def _fill(self, images, generate, params, stream: str) -> None:
    backend = self.side["sampler"]["backend"]
    bank.fill(
      images,
      generate,
      params,
      self._stream(stream),
      backend=backend if self.denoiser.traceable else "host",
      progress=self.progress,
    )


def _student(student: classifier.Classifier, plain: Any, key: jax.Array) -> Any:
  return classifier.transfer(plain, student.init(key))


def _eps(apply, schedule, prediction: str, weights, x_t, t, label) -> Any:
  """The adapted network's output as eps."""
  return process.convert(
    apply(weights, x_t, t, label),
    x_t,
    t,
    schedule.alpha_bar,
    source=prediction,
    target="eps",
  )
