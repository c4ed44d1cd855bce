# SPDX-License-Identifier: Apache-2.0
"""The membership stage on GANs whose truth is known.

A discriminator that remembers its members (its logit is minus the distance to
the nearest of them) betrays them all; one that looks at the sum of pixels
tells nothing. The nearest generation needs a bank alone.
"""

import copy

import jax.numpy as jnp
import numpy as np
import pytest

import diffmem.data
from diffmem import arrays, membership, stats, workdir
from diffmem.denoiser import gans
from diffmem.membership import nearest, run, targets
from diffmem.models import gan
from diffmem.sample import generators

SPLIT = {
  "name": "random",
  "members": 60,
  "held_out": 50,
  "calibration": 10,
  "planted": ((20, 3),),
  "shadows": 6,
  "shadow": None,
  "path": None,
}
DATA = {
  "source": "digits",
  "crop": "none",
  "resize": None,
  "filter": "lanczos",
  "data_dir": None,
}
LIRA = {
  "kind": "lira",
  "draws": 1,
  "augment": ("identity",),
  "variant": "online",
  "variance": "fixed",
  "statistic": "loss",
  "augmentations": "mean",
}
CONFIG = {
  "attacks": ("discriminator",),
  "t": (0,),
  "headline_t": None,
  "choose": 0.3,
  "criterion": "auc",
  "batch": 40,
  "bootstrap": 30,
  "discriminator": {"augment": ("identity",), "over": "mean"},
  "nearest": {"k": 1},
  "shadow_attacks": {"lira": LIRA},
  "quantile": None,
  "gradients": None,
  "audits": {"canaries": None, "one_run": None, "sets": None},
  "by_step": False,
  "generated": 20,
  "gallery": 3,
  "images": {"neighbours": 2, "most": 1000},
  "controls": {
    "draws": 4,
    "permutations": 4,
    "components": 8,
    "trees": 5,
    "folds": 2,
    "images": 100,
  },
}


def remembering(images):
  """A GAN whose discriminator holds these images [m h w c], in [-1, 1]."""

  def judge(variables, x, cond, *, key=None, train=False):
    del cond, key, train
    held = variables["params"]
    far = jnp.square(x[:, None] - held[None]).sum((2, 3, 4)).min(1)
    own = (x * held[:1]).mean((1, 2, 3))  # two models never quite agree
    return 0.1 * own - jnp.sqrt(far + 1e-12), {}

  def draw(variables, z, cond, *, key=None, train=False):
    del cond, key, train
    return variables["params"][: len(z)], {}

  both = gan.GAN(
    "oracle",
    tuple(images.shape[1:]),
    None,
    4,
    gan.Network(lambda key: {}, draw),
    gan.Network(lambda key: {}, judge),
  )
  variables = {"params": jnp.asarray(images), "state": {}}
  return gans.Trained(
    both, {"generator": variables, "discriminator": variables}
  )


def load(root, step=None):
  dataset, split = diffmem.data.read(workdir.path(root) / "data")
  return remembering(arrays.from_uint8(dataset.take(split.members)))


def pretend(root, shadow):
  split = SPLIT | {"shadow": shadow}
  config = {"seed": 0, "data": {**DATA, "split": split}}
  folder = workdir.of(root, config["data"])
  dataset, drawn = diffmem.data.prepare(
    folder / "data", seed=0, **config["data"]
  )
  config |= {"models": {"family": "oracle"}, "adversarial": {"loss": "hinge"}}
  inputs = {"dataset": dataset.info["sha256"], "split": drawn.digest}
  with workdir.stage(folder, "train", config=config, inputs=inputs) as stage:
    stage.record("weights", f"abc {shadow}")
  return dataset, drawn


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  """A GAN and six shadows; every third member is among its generations."""
  root = tmp_path_factory.mktemp("gan")
  for shadow in (*range(6), None):
    dataset, split = pretend(root, shadow)
  made = arrays.from_uint8(dataset.take(split.members[::3]))
  generators.run(
    root,
    lambda params, ids, key: params[ids % len(made)],
    params=made,
    n=40,
    batch=40,
    progress=False,
  )
  return root


@pytest.fixture(autouse=True)
def _oracles(monkeypatch):
  monkeypatch.setattr(gans, "load", load)


def stage(root, **change):
  given = copy.deepcopy(CONFIG) | change
  run.run(root, seed=3, membership=given, progress=False)
  return workdir.read_json(root / "membership" / "results.json")


def test_members_are_found_with_shadows_and_without(root):
  got = stage(root)
  found = got["discriminator"]
  assert found["auc"][0] > 0.95
  assert (found["kind"], found["queries"], found["t"]) == ("model", 1, 0)
  assert got["lira"]["auc"][0] > 0.95
  assert got["lira"]["main"]["auc"][0] > 0.95
  some = got["nearest"]
  # A third of the members is found, the others are a coin: 1/3 + 1/3.
  assert 0.55 < some["auc"][0] < 0.8
  assert some["options"] == {"k": 1, "generations": 40}
  controls = got["_controls"]
  assert controls["shuffled"]["nearest"]["draws"] == 4
  assert controls["generated"]["discriminator"]["images"] == 20


def test_the_score_is_the_logit_of_each_image_alone(root):
  model = load(root)
  critic = targets.critic(model)
  images = diffmem.data.read(root / "data")[0].images[:5]
  found = membership.score("discriminator", critic, images, t=0)
  x = arrays.from_uint8(images)
  logits, _ = model.gan.discriminator.apply(
    model.params["discriminator"], x, None
  )
  np.testing.assert_allclose(found, logits, rtol=1e-5)
  flipped = membership.score(
    "discriminator", critic, images, t=0, augment=("identity", "flip")
  )
  other, _ = model.gan.discriminator.apply(
    model.params["discriminator"], x[:, :, ::-1], None
  )
  np.testing.assert_allclose(flipped, (logits + other) / 2, rtol=1e-5)


def test_the_nearest_generation_by_hand():
  rng = np.random.default_rng(0)
  images, made = (rng.integers(0, 256, (n, 4, 4, 1), np.uint8) for n in (7, 30))
  far = images[:, None].astype(float) - made[None]
  far = np.sort(np.sqrt((far**2).mean((2, 3, 4))) / 255, axis=1)
  for k in (1, 5):
    np.testing.assert_allclose(
      nearest.score(images, made, k=k), -far[:, :k].mean(1), rtol=1e-6
    )
  members = made[:7]
  assert (
    stats.auc(nearest.score(members, made), nearest.score(images, made)) == 1
  )


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (
      {"attacks": ("loss",), "loss": {
        "draws": 2, "augment": ("identity",), "over": "mean"},
        "shadow_attacks": {}},
      "'loss', which is of a denoiser, and the model is a GAN: choose of discr",
    ),
    ({"t": (0, 5)}, "a GAN has one time"),
    ({"nearest": {"k": 41}}, r"nearest\.k = 41: expected 1 to 40"),
    ({"nearest": {"n": 1}}, "nearest has the keys n"),
    (
      {"gradients": {
        "times": 2, "draws": 1, "norms": "mean", "classifier": "linear"}},
      "gradients are of a denoiser's loss",
    ),
    (
      {"shadow_attacks": {"lira": LIRA | {"draws": 2}}},
      "the losses have 1",
    ),
  ],
)  # fmt: skip
def test_what_cannot_be_is_refused(root, change, message):
  with pytest.raises(ValueError, match=message):
    stage(root, **change)


def test_a_discriminator_denoises_nothing():
  critic = targets.critic(remembering(jnp.zeros((2, 8, 8, 1))))
  images = np.zeros((2, 8, 8, 1), np.uint8)
  with pytest.raises(ValueError, match="a discriminator predicts no noise"):
    membership.score("loss", critic, images, t=0, draws=1)
