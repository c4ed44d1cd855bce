# SPDX-License-Identifier: Apache-2.0
"""Every config, for every documented argument, fits what takes it."""

import inspect

import jax
import pytest

import diffmem
from diffmem import data, models
from diffmem.audit import study
from diffmem.bin import program
from diffmem.data import splits
from diffmem.diffusion import losses, schedules, steppers
from diffmem.extraction import (
  divergence,
  inpaint,
  side_clusters,
  side_job,
  side_scores,
)
from diffmem.features import classifier
from diffmem.membership import (
  audits,
  learnt,
  prompt_stage,
  shadowed,
  stored,
)
from diffmem.models import gan, gan_presets, presets
from diffmem.quality import run as quality_run
from diffmem.report import compare, plan_published
from diffmem.sample import chain, choosing, mitigation, pipelines
from diffmem.train import deduplication, gan_program, privacy

CONFIGS = {
  "digits.py": [
    "",
    "debug",
    "seed=3",
    "debug,seed=3",
    "mitigation=amg",
    "quality",
    "debug,quality",
  ],
  "cifar10_ddpm.py": [
    "",
    "debug",
    "seed=3",
    "source=npz:/data/cifar10.npz",
    "split=secmi-cifar10,path=/data/split.npz",
    "debug,source=folder:/data/cifar10",
    "shadows=16",
    "debug,shadows=4,shadow=3",
    "subset=1000,quality",
    "debug,subset=8000,quality",
  ],
}
# One experiment, with each defence and without.
ARMS = ("dedup", "dp_high", "dp_low", "dp_clip", "augment", "early", "amg")
CONFIGS["defence_small.py"] = [
  "",
  "debug",
  "seed=3",
  "steps=400,ema=0.0",
  "quality",
  "debug,quality,defence=dp_low",
  *(f"{debug}defence={arm}" for arm in ARMS for debug in ("", "debug,")),
]
ALL = [(name, arg) for name, args in CONFIGS.items() for arg in args]
# Of images from outside: nothing is trained.
OUTSIDE = {
  "folder.py": ["", "debug", "seed=3", "quality"],
  "pipeline.py": ["", "debug", "seed=3"],
}
# Shadow models and nothing else: no model to sample from.
SHADOWS = {
  "digits_membership.py": [
    "",
    "debug",
    "seed=3",
    "shadows=16,steps=8000",
    "debug,shadow=3",
    "inpaint",
    "debug,inpaint",
  ],
}
# One model that is not sampled from.
UNSAMPLED = {"digits_audits.py": ["", "debug", "seed=3", "steps=800"]}
# Shadow models, each attacked by what it makes.
SURROGATE = {
  "side_small.py": [
    "",
    "debug",
    "seed=3",
    "shadows=4,steps=80",
    "debug,shadow=3",
  ],
  "side_cifar10.py": ["", "debug", "seed=3", "source=npz:cifar10.npz"],
  "side_celeba.py": [
    "",
    "debug",
    "seed=3",
    "subset=all",
    "subset=identity,source=folder:faces",
  ],
}
# Models that are not sampled from, and one stage of their own.
ASIDE = {
  "digits_reconstruction.py": ["", "debug", "seed=3", "steps=800"],
  "measures_small.py": ["", "debug", "seed=3"],
}
# Of runs that have finished.
COMPARED = {"compare.py": ["", "debug", "seed=3"]}
# Of work alone: nothing is run.
PLANNED = {
  "plan.py": ["", "debug", "seed=3", "study=prompts", "study=prompts,debug"]
}
# Many audits, each of a config of its own.
STUDIES = {
  "claims.py": [
    "",
    "debug",
    "seeds=7,jobs=1",
    "stored=published",
    "fashion=tfds:fashion_mnist,cifar=cifar10.npz",
  ],
}
# GANs, in the place of a denoiser.
GANS = {
  "gan_small.py": [
    "",
    "debug",
    "seed=3",
    *(
      f"family={family}"
      for family in ("diffbiggan", "e2gan", "nda", "wgan_alp")
    ),
    "shadows=4,steps=80",
    "debug,quality",
    "debug,family=wgan_alp,shadows=4,shadow=3",
  ],
}
# A cascade with captions, asked by prompt.
CAPTIONED = {
  "imagen_small.py": ["", "debug", "seed=3", "twin=runs/other", "debug,twin=x"]
}
TRAINED = ALL + [
  (name, arg) for name, args in (SHADOWS | UNSAMPLED).items() for arg in args
]
FITTED = TRAINED + [(n, a) for n, args in CAPTIONED.items() for a in args]
SECTIONS = {
  "seed",
  "data",
  "models",
  "diffusion",
  "train",
  "sample",
  "distances",
  "features",
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
  trained = (CONFIGS, SHADOWS, UNSAMPLED, SURROGATE, ASIDE, GANS, CAPTIONED)
  listed = (*trained, OUTSIDE, COMPARED, PLANNED, STUDIES)
  assert files == set().union(*listed)


@pytest.mark.parametrize(
  ("name", "arg"), [(n, a) for n, args in COMPARED.items() for a in args]
)
def test_compared_configs(root, name, arg):
  config = load(root, name, arg)
  assert config.is_locked
  accepts(compare.run, config.to_dict())


@pytest.mark.parametrize(
  ("name", "arg"), [(n, a) for n, args in PLANNED.items() for a in args]
)
def test_planned_configs(root, name, arg):
  config = load(root, name, arg)
  assert config.is_locked
  assert plan_published.works(config.plan.to_dict())
  assert set(config) == {"seed", "plan"}


@pytest.mark.parametrize(
  ("name", "arg"), [(n, a) for n, args in STUDIES.items() for a in args]
)
def test_studies(root, name, arg):
  """Every arm is an audit whose config takes all its overrides."""
  config = load(root, name, arg)
  assert config.is_locked
  accepts(study.run, config.to_dict())
  for run in study.runs(config.to_dict()["claims"]["arms"]):
    of, _, options = run.config.partition(":")
    audit = load(root, of, options).to_dict()
    for flag in run.flags:
      node = audit
      for key in flag.partition("=")[0].split("."):
        assert key in node, (run.name, flag)
        node = node[key]


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


def test_the_pipeline_s_section_is_its_settings(root):
  section = load(root, "pipeline.py").to_dict()["sample"]
  accepts(pipelines.Settings, section)
  folder = load(root, "folder.py").to_dict()
  other = load(root, "pipeline.py").to_dict()
  for name in set(folder) - {"sample", "report"}:
    assert folder[name] == other[name], name
  cascade = load(root, "imagen_small.py").to_dict()
  assert other["choose"].keys() == cascade["choose"].keys()


@pytest.mark.parametrize(
  ("name", "arg"), [(n, a) for n, args in ASIDE.items() for a in args]
)
def test_configs_with_one_stage_of_their_own(root, name, arg):
  config = load(root, name, arg)
  assert config.is_locked
  accepts(diffmem.audit.run, config.to_dict())
  accepts(data.prepare, config.data.to_dict(), given=("seed",))
  full = load(root, name)
  assert set(full) == set(config)
  for section in set(config) - {"seed"}:
    assert config[section].is_locked
    assert set(full[section]) == set(config[section])
  if "inpaint" in config:
    section = config.inpaint.to_dict()
    rest = {"mask", "targets", "keep", "bootstrap", "gallery"}
    options, _ = keywords(inpaint.attack)
    assert set(section) == options | rest
  if "measures" in config:
    section = config.measures.to_dict()
    assert config.train.checkpoint_every == full.train.checkpoint_every
    densities, _ = keywords(divergence.densities)
    rest = {"kinds", "members", "held_out", "variance"}
    assert set(section["labels"]) == densities - {"batch"} | rest
    sampler, _ = keywords(chain.chain)
    assert set(section["sampler"]) == sampler - {"guidance", "prepare"}


@pytest.mark.parametrize(("name", "arg"), FITTED)
def test_builds_locked_with_every_section(root, name, arg):
  config = load(root, name, arg)
  sampling = {"sample", "distances", "features", "extraction"}
  sampled = name not in SHADOWS | UNSAMPLED
  expected = SECTIONS if sampled else SECTIONS - sampling
  for stage in ("quality", "inpaint"):
    if stage in arg:
      expected = expected | {stage}
  if name in CAPTIONED:
    expected = expected | {"choose", "prompts"}
    assert set(config) == expected | {"upsamplers"}
  else:
    assert set(config) == expected
  assert config.is_locked
  with pytest.raises(AttributeError):
    config.nonesuch = 1
  for section in expected - {"seed"}:
    assert config[section].is_locked
    with pytest.raises(AttributeError):
      config[section].nonesuch = 1
  if "seed=3" in arg:
    assert config.seed == 3


@pytest.mark.parametrize(
  ("name", "arg"), [(n, a) for n, args in SURROGATE.items() for a in args]
)
def test_surrogate_configs(root, name, arg):
  config = load(root, name, arg)
  assert config.is_locked
  sections = config.to_dict()
  accepts(diffmem.audit.run, sections)
  side_job.check(sections["side"])
  for part in ("classifier", "training", "sampler", "scoring", "clusters"):
    assert config.side[part].is_locked
    full = load(root, name).side
    assert full[part].keys() == config.side[part].keys()
  assert type(full.scales) is type(config.side.scales)
  assert max(full.scoring.budgets) <= full.n
  scoring = {k: v for k, v in full.scoring.items() if k != "duplicate"}
  accepts(side_scores.score, scoring, given=("seed",))
  accepts(side_clusters.cluster, full.clusters, given=("seed",))


@pytest.mark.parametrize(("name", "arg"), FITTED)
def test_sections_are_arguments(root, name, arg):
  config = load(root, name, arg).to_dict()
  accepts(diffmem.audit.run, config)
  config["data"].pop("upsampler", None)  # which part of a cascade is trained
  accepts(data.prepare, config["data"], given=("seed",))
  accepts(splits.split, config["data"]["split"], given=("seed",))
  assert config["data"]["split"]["name"] in splits.SPLITS
  if "quality" in config:
    quality_run.check(config["quality"])
    assert set(config["quality"]) == set(quality_run.KEYS)
    training = config["quality"]["features"]["training"]
    accepts(classifier.create, training)
  if "sample" in config:
    accepts(steppers.create, dict(eta=config["sample"]["eta"]))
    assert config["sample"]["stepper"] in steppers.STEPPERS
    mitigation.check(config["sample"].get("mitigation"))
  assert config["diffusion"]["loss"] in losses.LOSSES
  schedules.create(**config["diffusion"]["schedule"])


@pytest.mark.parametrize(
  ("name", "arg"), [(n, a) for n, args in GANS.items() for a in args]
)
def test_configs_of_gans(root, name, arg):
  config = load(root, name, arg)
  assert config.is_locked
  judged = {"quality"} if "quality" in arg else set()
  assert set(config) == SECTIONS - {"diffusion"} | {"adversarial"} | judged
  if judged:
    quality_run.check(config.quality.to_dict())
    digits = load(root, "digits.py", "quality").quality
    assert config.quality.keys() == digits.keys()
  sections = config.to_dict()
  accepts(diffmem.audit.run, sections)
  accepts(data.prepare, sections["data"], given=("seed",))
  both = gan.create(shape=(8, 8, 1), **sections["models"])
  gan_program.parts(both, sections["adversarial"], sections["train"])
  knobs = {
    knob
    for network in gan.FAMILIES[both.family]
    for knob in keywords(network.__init__)[0]
  }
  assert set(sections["models"]) == knobs | {"family", "num_classes", "latent"}
  assert set(sections["sample"]) == {"n", "batch", "backend"}
  family = (
    "stylegan_ada" if "family=" not in arg else arg.split("=")[1].split(",")[0]
  )
  preset = getattr(gan_presets, f"{family}_small")()
  assert preset.items() <= sections["models"].items()
  (want,) = stored.plan(sections["membership"], config.seed)
  attacks = shadowed.plan(sections["membership"], want)
  assert bool(attacks) == ("shadows=4" in arg and "shadow=" not in arg)
  full = load(root, name, arg.removeprefix("debug").lstrip(",")).to_dict()
  for section in set(full) - {"seed"}:
    assert set(full[section]) == set(sections[section])


def test_shadows_of_a_gan_are_pairs(root):
  with pytest.raises(ValueError, match="shadows=2: expected 0, or 4 or more"):
    load(root, "gan_small.py", "shadows=2")
  with pytest.raises(ValueError, match="unknown family 'stylegan'"):
    load(root, "gan_small.py", "family=stylegan")


@pytest.mark.parametrize(("name", "arg"), FITTED)
def test_every_knob_of_the_model_is_in_the_config(root, name, arg):
  config = load(root, name, arg).to_dict()["models"]
  network = models.MODELS[config["name"]]
  knobs, _ = keywords(network.__init__)
  assert set(config) == knobs | {"name", "num_classes", "dtype"}


@pytest.mark.parametrize(
  ("name", "arg"),
  [(n, a) for n, a in FITTED if n != "cifar10_ddpm.py" and "shadow=" not in a],
)
def test_debug_does_all_of_the_same(root, name, arg):
  """A debug config differs in sizes alone: same keys, same kinds of value."""
  rest = ",".join(x for x in arg.split(",") if x != "debug")
  full, config = load(root, name, rest), load(root, name, arg)
  assert set(full) == set(config)
  stages = [c.to_dict().get("upsamplers", ()) for c in (full, config)]
  for one, other in zip(*stages, strict=True):
    assert {k: set(one[k]) for k in ("models", "train")} == {
      k: set(other[k]) for k in ("models", "train")
    }
  for section in set(full) - {"seed", "upsamplers"}:
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


def test_the_network_of_the_published_split_is_that_of_its_weights(root):
  spec = "split=secmi-cifar10,path=split.npz"
  knobs = load(root, "cifar10_ddpm.py", spec).to_dict()["models"]
  expected = presets.ddpm_cifar10_secmi()
  expected.pop("learned_variance")
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


@pytest.mark.parametrize(
  "name",
  [
    *CONFIGS,
    *COMPARED,
    *PLANNED,
    *STUDIES,
    *OUTSIDE,
    *SHADOWS,
    *UNSAMPLED,
    *SURROGATE,
    *ASIDE,
    *GANS,
    *CAPTIONED,
  ],
)
@pytest.mark.parametrize("arg", ["debgu", "seed=x", "seed"])
def test_arguments_are_strict(root, name, arg):
  with pytest.raises(ValueError, match="config argument"):
    load(root, name, arg)


def test_shadow_arguments_reach_the_split(root):
  for name in ("cifar10_ddpm.py", *SHADOWS):
    split = load(root, name, "shadows=6,shadow=5").data.split
    assert (split.shadows, split.shadow) == (6, 5)
    assert load(root, name).data.split.shadow is None
  split = load(root, "digits_membership.py").data.split
  assert split.members == 0
  assert split.shadows >= 8


def test_too_few_shadows_are_refused_before_they_are_trained(root):
  with pytest.raises(ValueError, match="shadows=4: expected 6 or more"):
    load(root, "digits_membership.py", "shadows=4")


def test_the_identity_subset_must_be_given(root):
  with pytest.raises(ValueError, match="source=folder:PATH"):
    load(root, "side_celeba.py", "subset=identity")
  with pytest.raises(ValueError, match="subset=half: expected one of"):
    load(root, "side_celeba.py", "subset=half")


def test_neighbours_fit_the_search(root):
  """The rule looks at no more neighbours than the search keeps."""
  for name, arg in (*ALL, ("imagen_small.py", "")):
    config = load(root, name, arg)
    assert config.extraction.neighbours < config.distances.k


@pytest.mark.parametrize("arg", ["", "debug"])
def test_the_cascade_fits_its_captions_and_prompts(root, arg):
  """Tokens, sides and prompts of one section are those of the others."""
  config = load(root, "imagen_small.py", arg).to_dict()
  captions, base = config["data"]["captions"], config["models"]
  assert base["text"] == (captions["length"], captions["features"])
  (stage,) = config["upsamplers"]
  assert stage["side"] == 16  # of the scenes
  shape = (stage["low"], stage["low"], 1)
  models.create(shape=shape, **base)
  larger = base | {"low": stage["low"]} | stage["models"]
  models.create(shape=(16, 16, 1), **larger)
  assert len(config["sample"]["upsamplers"]) == 1
  chosen = sum(config["choose"][kind] for kind in choosing.KINDS)
  assert arg == "debug" or chosen >= 40
  assert config["sample"]["per_prompt"] >= config["prompts"]["minimum"]


def test_the_twin_has_no_duplicates_and_the_same_prompts(root):
  full = load(root, "imagen_small.py").to_dict()
  twin = load(root, "imagen_small.py", "twin=runs/a").to_dict()
  assert twin["data"]["split"].pop("planted") == ()
  assert full["data"]["split"].pop("planted")
  table = twin["choose"].pop("table")
  assert table == "runs/a/choose/prompts_chosen.csv"
  assert full["choose"].pop("table") is None
  assert twin == full


@pytest.mark.parametrize(("name", "arg"), FITTED)
def test_every_attack_has_all_of_its_options(root, name, arg):
  """Also those with shadow models, and detectors, where there are some."""
  config = load(root, name, arg).to_dict()
  membership = config["membership"]
  prompt_stage.check(membership.get("prompts"))
  plan = stored.plan(membership, config["seed"])
  assert plan[0].name == "loss"
  for want in plan:
    most = membership["headline_t"]
    assert most is None or most in want.times
  want = stored.wanted("loss", membership, config["seed"])
  shadows = shadowed.plan(membership, want)
  split = config["data"]["split"]
  assert bool(shadows) == bool(split["shadows"] and split["shadow"] is None)
  for name, keys in learnt.KEYS.items():
    learnt.check_keys(name, membership[name], keys)
  assert not membership["gradients"] or shadows
  assert set(membership["audits"]) == set(audits.KEYS)
  for name, keys in audits.KEYS.items():
    learnt.check_keys(name, membership["audits"][name], keys)


@pytest.mark.parametrize("arm", ARMS)
def test_a_defence_changes_nothing_else(root, arm):
  """Of all sections, those that are its own alone; coins do the same to all."""
  for coins in ("", ",coins"):
    plain = load(root, "defence_small.py", coins.strip(",")).to_dict()
    config = load(root, "defence_small.py", f"defence={arm}{coins}").to_dict()
    changed = {key for key in plain if plain[key] != config[key]}
    own = {"dedup": {"data"}, "amg": {"sample"}}.get(arm, {"train"})
    assert changed == (own & set(plain))
    assert bool(coins) == ("sample" not in plain)
    deduplicated = config["data"]["dedup"]
    if deduplicated is not None:
      deduplication.check(deduplicated)
    if config["train"]["privacy"] is not None:
      privacy.check(config["train"]["privacy"])


def test_coins_are_those_that_an_audit_of_one_run_needs(root):
  config = load(root, "defence_small.py", "coins,debug").to_dict()
  accepts(diffmem.audit.run, config)
  split = config["data"]["split"]
  assert (split["name"], split["planted"]) == ("bernoulli", ())
  assert config["membership"]["audits"]["one_run"] is not None
