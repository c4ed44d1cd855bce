# SPDX-License-Identifier: Apache-2.0
"""Work counted from configs, against counts by hand."""

import math

import pytest

from diffmem.audit import work
from diffmem.bin import program

MLP = {"width": 16, "blocks": 1}


def load(root, spec, **changes):
  """A config of the repository, with a dense network that traces at once."""
  config = program.load_config(f"{root}/configs/{spec}").to_dict()
  models = program.load_config(f"{root}/configs/digits_membership.py")
  config["models"] = {**models.to_dict()["models"], **MLP}
  config["membership"] |= changes
  return config


def counted(config, n=1797, shape=(8, 8, 1)):
  parts = work.parts(config, shape)
  return parts, work.count(config, n, parts)


def test_digits_by_hand(root):
  options = dict(attacks=("loss",), t=(10, 30, 100, 300))
  config = load(root, "digits.py", **options)
  (base,), (train, sample, distances, calls, numbers) = counted(config)
  images = 4000 * 64
  assert (train.stage, train.job) == ("train", "train base")
  assert train.units == {"images": images}
  assert train.flops == 3 * base.cost.flops * images
  assert train.disk == 2 * 4 * 4 * base.cost.params
  assert train.memory == (5 * 4 * base.cost.params, base.cost.kept * 64)
  assert sample.units == {"calls": 4096 * 50}
  assert sample.disk == 4096 * 64
  pairs = 4096 * 3 * 599 + 2 * 599 * 599
  rank = 51 * (1 + math.log(599 / 51))
  assert distances.units["pairs"] == pairs
  assert distances.units["candidates"] == pytest.approx(
    (3 * 4096 + 2 * 599) * rank
  )
  assert distances.flops == 2 * 64 * pairs
  assert distances.disk == 16 * 51 * (3 * 4096 + 2 * 599)
  assert calls.units == {"calls": 4 * 16 * (1797 + 128)}
  assert calls.disk == 4 * 4 * 16 * 1797
  # Four times, two thresholds, and 1, 2, 4, 8, 16 draws.
  assert numbers.units == {"scores": 1797 * (4 + 2 + 5)}
  assert work.unpriced(config) == ["extraction"]


def test_options_that_change_the_work(root):
  config = load(root, "digits.py", attacks=("loss",), generated=0)
  config["sample"] |= {"guidance": 2.0, "n": 100}
  config["models"]["num_classes"] = 10
  config["distances"]["mirror"] = True
  _, (_, sample, distances, *_) = counted(config)
  assert sample.units == {"calls": 100 * 50 * 2}
  assert distances.units["pairs"] == 2 * (100 * 3 * 599 + 2 * 599 * 599)


def test_attacks_that_share_a_signal_ask_once(root):
  config = load(root, "digits.py", attacks=("secmi",), generated=0)
  _, works = counted(config)
  assert works[3].units == {"calls": 1797 * 12}  # 0, 10, .., 110


def test_shadow_models_are_trained_and_attacked(root):
  spec = "cifar10_ddpm.py:shadows=16"
  config = load(root, spec, attacks=("loss",), generated=0)
  _, works = counted(config, 50_000, (32, 32, 3))
  assert [w.stage for w in works[:3]] == ["train", "shadows", "sample"]
  assert works[1].units["images"] == 16 * 800_000 * 128
  queries = 4 * 20 * 2
  images = 25_000 + 20_000 + 4_900
  assert works[4].units == {"calls": queries * images * (1 + 16)}
  alone = load(root, f"{spec},shadow=3", attacks=("loss",), generated=0)
  _, works = counted(alone, 50_000, (32, 32, 3))
  assert [w.stage for w in works[:3]] == ["train", "sample", "distances"]
  pairs = 65_536 * 49_900 + 2 * 22_500**2
  assert works[2].units["pairs"] == pairs


def test_shadows_without_a_model_are_not_sampled(root):
  config = load(root, "digits_membership.py", gradients=None)
  _, works = counted(config)
  assert [w.stage for w in works] == ["shadows", "membership", "membership"]


def test_the_source_is_read_or_said(root):
  data = load(root, "digits.py")["data"]
  assert work.size(None, data) == (1797, (8, 8, 1))
  assert work.size("50000x32x32x3", data) == (50_000, (32, 32, 3))
  for text in ("50000", "1x2x3x0", "axbxcxd"):
    with pytest.raises(ValueError, match=f"--images={text}: expected NxHxWxC"):
      work.size(text, data)
  with pytest.raises(ValueError, match="or say what the source holds: --im"):
    work.size(None, {**data, "source": "npz:nonesuch.npz"})


def test_configs_without_training_are_refused(root):
  config = program.load_config(f"{root}/configs/folder.py").to_dict()
  with pytest.raises(ValueError, match="no section 'models'"):
    work.check(config)
  config = program.load_config(f"{root}/configs/gan_small.py").to_dict()
  with pytest.raises(ValueError, match="no section 'diffusion'"):
    work.check(config)
  spec = f"{root}/configs/defence_small.py:defence=dp_low"
  with pytest.raises(ValueError, match=r"train\.privacy: steps of DP-SGD"):
    work.check(program.load_config(spec).to_dict())


def test_what_a_network_moves_divides_by_images(root):
  (base,), (train, sample, *_) = counted(load(root, "digits.py"))
  assert sample.moved == base.cost.moved * 4096 * 50
  assert train.moved > 3 * base.cost.moved * 4000 * 64
  assert math.isfinite(train.moved)
