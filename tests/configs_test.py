# SPDX-License-Identifier: Apache-2.0
"""Every config, for every documented argument, fits what takes it."""

import inspect

import jax
import pytest

import diffmem
from diffmem import data, models
from diffmem.bin import program
from diffmem.data import splits
from diffmem.diffusion import losses, schedules, steppers
from diffmem.models import presets

CONFIGS = {
  "digits.py": ["", "debug", "seed=3", "debug,seed=3"],
  "cifar10_ddpm.py": [
    "",
    "debug",
    "seed=3",
    "source=npz:/data/cifar10.npz",
    "split=secmi-cifar10,path=/data/split.npz",
    "debug,source=folder:/data/cifar10",
  ],
}
ALL = [(name, arg) for name, args in CONFIGS.items() for arg in args]
# Of images from outside: nothing is trained.
OUTSIDE = {"folder.py": ["", "debug", "seed=3"]}
SECTIONS = {
  "seed",
  "data",
  "models",
  "diffusion",
  "train",
  "sample",
  "distances",
  "extraction",
  "membership",
  "report",
}


def load(root, name, arg=""):
  return program.load_config(f"{root}/configs/{name}:{arg}")


def keywords(function):
  """Names of the keyword arguments of a function, and the required ones."""
  parameters = inspect.signature(function).parameters.values()
  named = [p for p in parameters if p.kind is p.KEYWORD_ONLY]
  required = {p.name for p in named if p.default is p.empty}
  return {p.name for p in named}, required


def accepts(function, section, given=()):
  """Asserts that `section` can be splatted into `function`."""
  names, required = keywords(function)
  assert set(section) <= names, set(section) - names
  assert required <= set(section) | set(given), required - set(section)


def test_every_config_is_listed(root):
  files = {p.name for p in (root / "configs").glob("*.py")} - {"__init__.py"}
  assert files == set(CONFIGS) | set(OUTSIDE)


@pytest.mark.parametrize(
  ("name", "arg"), [(n, a) for n, args in OUTSIDE.items() for a in args]
)
def test_outside_configs(root, name, arg):
  config = load(root, name, arg)
  assert config.is_locked
  accepts(diffmem.audit.run, config.to_dict())
  for section in set(config) - {"seed"}:
    assert config[section].is_locked
  accepts(data.prepare_given, config.data.to_dict(), given=("seed",))
  assert config.extraction.neighbours < config.distances.k


@pytest.mark.parametrize(("name", "arg"), ALL)
def test_builds_locked_with_every_section(root, name, arg):
  config = load(root, name, arg)
  assert set(config) == SECTIONS
  assert config.is_locked
  with pytest.raises(AttributeError):
    config.nonesuch = 1
  for section in SECTIONS - {"seed"}:
    assert config[section].is_locked
    with pytest.raises(AttributeError):
      config[section].nonesuch = 1
  if "seed=3" in arg:
    assert config.seed == 3


@pytest.mark.parametrize(("name", "arg"), ALL)
def test_sections_are_arguments(root, name, arg):
  config = load(root, name, arg).to_dict()
  accepts(data.prepare, config["data"], given=("seed",))
  accepts(splits.split, config["data"]["split"], given=("seed",))
  assert config["data"]["split"]["name"] in splits.SPLITS
  accepts(steppers.create, dict(eta=config["sample"]["eta"]))
  assert config["sample"]["stepper"] in steppers.STEPPERS
  assert config["diffusion"]["loss"] in losses.LOSSES
  schedules.create(**config["diffusion"]["schedule"])


@pytest.mark.parametrize(("name", "arg"), ALL)
def test_every_knob_of_the_model_is_in_the_config(root, name, arg):
  config = load(root, name, arg).to_dict()["models"]
  network = models.MODELS[config["name"]]
  knobs, _ = keywords(network.__init__)
  assert set(config) == knobs | {"name", "num_classes", "dtype"}


@pytest.mark.parametrize("arg", CONFIGS["digits.py"])
def test_debug_does_all_of_the_same(root, arg):
  """A debug config differs in sizes alone: same keys, same kinds of value."""
  full, config = load(root, "digits.py"), load(root, "digits.py", arg)
  for section in SECTIONS - {"seed"}:
    assert set(full[section]) == set(config[section])
    for key in full[section]:
      assert type(full[section][key]) is type(config[section][key]), key


@pytest.mark.parametrize(
  ("name", "preset"),
  [("digits.py", presets.digits), ("cifar10_ddpm.py", presets.ddpm_cifar10)],
)
def test_networks_are_the_published_ones(root, name, preset):
  knobs = load(root, name).to_dict()["models"]
  expected = preset()
  expected.pop("learned_variance")  # follows from the loss
  assert expected.items() <= knobs.items()


@pytest.mark.parametrize("arg", ["", "debug"])
def test_networks_fit_the_images(root, arg):
  """At the size of each experiment's own source."""
  for name, full in (
    ("digits.py", (8, 8, 1)),
    ("cifar10_ddpm.py", (32, 32, 3)),
  ):
    config = load(root, name, arg).to_dict()
    shape = (8, 8, 1) if config["data"]["source"] == "digits" else full
    models.create(shape=shape, **config["models"])


def test_the_cifar10_network_has_the_published_size(root):
  knobs = load(root, "cifar10_ddpm.py").to_dict()["models"]
  model = models.create(shape=(32, 32, 3), **knobs)
  shapes = jax.eval_shape(model.init, jax.random.key(0))
  assert models.count(shapes) == 35_746_307


@pytest.mark.parametrize("name", [*CONFIGS, *OUTSIDE])
@pytest.mark.parametrize("arg", ["debgu", "seed=x", "seed"])
def test_arguments_are_strict(root, name, arg):
  with pytest.raises(ValueError, match="config argument"):
    load(root, name, arg)


def test_neighbours_fit_the_search(root):
  """The rule looks at no more neighbours than the search keeps."""
  for name, arg in ALL:
    config = load(root, name, arg)
    assert config.extraction.neighbours < config.distances.k
    assert config.membership.headline_t in config.membership.t
