# SPDX-License-Identifier: Apache-2.0
"""The train and sample stages of a GAN: exact resumption, banks, refusals."""

import copy
import json

import jax
import numpy as np
import pytest

from diffmem import keys, workdir
from diffmem.denoiser import gans, trained
from diffmem.models import gan
from diffmem.sample import bank, preview
from diffmem.sample import run as generate
from diffmem.train import run
from tests import tiny_gan

CONFIG = {
  "seed": 0,
  "data": {
    "source": "digits",
    "data_dir": None,
    "crop": "none",
    "resize": None,
    "filter": "lanczos",
    "split": {
      "name": "random",
      "members": 40,
      "held_out": 40,
      "calibration": 40,
      "planted": ((5, 2),),
      "shadows": 0,
      "shadow": None,
      "path": None,
    },
  },
  "models": {"family": "tiny", "num_classes": 10, "latent": 4},
  "adversarial": {
    "loss": "logistic",
    "penalties": {"r1": {"weight": 0.1, "every": 3}},
    "augment": {
      "name": "ada", "blit": False, "geometry": False, "colour": True,
      "start": 0.2, "target": 0.6, "interval": 2, "images": 1000,
    },
    "negatives": None,
    "updates": 2,
    "discriminator_lr": 2e-3,
    "betas": (0.0, 0.99),
  },
  "train": {
    "batch": 8,
    "steps": 12,
    "lr": 2e-3,
    "warmup": 2,
    "decay": "constant",
    "ema": 0.9,
    "flip": False,
    "log_every": 2,
    "checkpoint_every": 4,
    "preview_every": 12,
    "preview": 4,
    "tensorboard": False,
  },
}  # fmt: skip
SAMPLE = {"n": 20, "batch": 8, "backend": "pmap"}


@pytest.fixture(scope="module", autouse=True)
def _tiny():
  """The family "tiny", of dense networks."""
  create = gan.create

  def small(family, *, shape, num_classes, latent, **knobs):
    if family != "tiny":
      return create(
        family, shape=shape, num_classes=num_classes, latent=latent, **knobs
      )
    return tiny_gan.create(tuple(shape), num_classes)

  with pytest.MonkeyPatch.context() as patch:
    patch.setattr(gan, "create", small)
    yield


def _config(**changes):
  config = copy.deepcopy(CONFIG)
  for key, value in changes.items():
    section, name = key.split("__")
    config[section][name] = value
  return config


def _train(root, config=CONFIG, **kwargs):
  run.run(root, **copy.deepcopy(config), progress=False, **kwargs)
  return workdir.require(root, "train")


def _lines(root):
  text = (root / "train" / "metrics.jsonl").read_text()
  return [json.loads(line) for line in text.splitlines()]


@pytest.fixture(scope="module")
def calm(tmp_path_factory, _tiny):
  root = tmp_path_factory.mktemp("calm")
  hook = preview.hook(seed=0, sample=SAMPLE, count=4)
  return root, _train(root, preview=hook)


def test_it_records_what_it_did(calm):
  root, meta = calm
  assert meta["images"] == 48
  both = tiny_gan.create((8, 8, 1), 10)
  made = (
    getattr(both, n).init(keys.root(0)) for n in ("generator", "discriminator")
  )
  assert meta["parameters"] == sum(x.size for x in jax.tree.leaves(list(made)))
  lines = _lines(root)
  assert [line["step"] for line in lines] == [2, 4, 6, 8, 10, 12]
  assert {"loss", "loss_generator", "signs", "p", "lr"} <= set(lines[0])
  assert ["r1" in line for line in lines] == [True, True, False] * 2
  assert (root / "train" / "previews" / "step_00000012.png").exists()


def test_a_stopped_run_goes_on_to_the_same_weights(calm, tmp_path):
  class Stop(Exception):
    pass

  def stop_at(step):
    def prepare(build, folder):
      def draw(now, params):
        if now == step:
          raise Stop

      return draw

    return prepare

  config = _config(train__preview_every=7)
  with pytest.raises(Stop):
    _train(tmp_path, config, preview=stop_at(7))
  meta = _train(tmp_path, config, preview=stop_at(None))
  assert meta["runs"] == 2
  assert meta["weights"] == calm[1]["weights"]
  assert [line["step"] for line in _lines(tmp_path)] == [2, 4, 6, 8, 10, 12]


def test_a_diverging_run_names_its_step_and_keeps_the_last_good_one(tmp_path):
  config = _config(adversarial__discriminator_lr=1e12, train__warmup=6)
  config["train"]["checkpoint_every"] = 1
  match = r"(beyond 1e\+06|not finite) at step \d+; the last good checkpoint"
  with pytest.raises(FloatingPointError, match=match) as error:
    _train(tmp_path, config)
  step = int(str(error.value).split(" at step ")[1].split(";")[0])
  kept = trained.steps(tmp_path)
  assert not kept or max(kept) == step - 1


def test_the_bank_is_a_function_of_ids(calm):
  root, _ = calm
  generate.run(root, seed=0, sample=SAMPLE, progress=False)
  images = bank.open_bank(root)
  assert images.shape == (20, 8, 8, 1)
  model = gans.load(root)
  key = keys.stream(keys.root(0), "sample")
  few = model.draw(model.params, np.array([13, 3]), key)
  levels = np.round((np.clip(np.asarray(few), -1, 1) + 1) * 127.5)
  for i, image in zip((13, 3), levels, strict=True):
    assert np.abs(images[i].astype(int) - image).max() <= 1
  other = tiny_gan.create((8, 8, 1), 10).generator
  z = jax.random.normal(
    keys.stream(keys.per_id(key, np.array([13]))[0], "z"), (1, 4)
  )
  by_hand, _ = other.apply(model.params["generator"], z, np.array([3]))
  np.testing.assert_allclose(few[0], by_hand[0], atol=1e-5)


def test_what_is_for_denoisers_refuses_a_gan(calm):
  root, _ = calm
  with pytest.raises(ValueError, match=r"is of a GAN \(tiny\), which denoises"):
    trained.load(root)
  with pytest.raises(ValueError, match=r"sample\.eta is of denoisers"):
    generate.run(root, seed=0, sample=SAMPLE | {"eta": 0.0}, progress=False)
  with pytest.raises(ValueError, match="the config has both"):
    _train(root, CONFIG | {"diffusion": {"schedule": {}}})
  with pytest.raises(ValueError, match="the config has neither"):
    _train(root, CONFIG | {"adversarial": None})


def test_a_gan_with_classes_needs_labels_that_fit(tmp_path):
  with pytest.raises(ValueError, match="the labels run from 0 to 9"):
    _train(tmp_path, _config(models__num_classes=3))
