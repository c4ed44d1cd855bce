# SPDX-License-Identifier: Apache-2.0
"""Plans as a user asks for them."""

import pytest

from diffmem import workdir
from diffmem.audit import planning
from diffmem.bin import program


def test_a_study_on_stated_hardware(root, tmp_path):
  config = program.load_config(f"{root}/configs/plan.py:debug").to_dict()
  lines = planning.run(tmp_path, config=config, hardware="h100", devices=8)
  assert lines[1].startswith("all pairs")
  assert "not measured: NVIDIA H100 SXM" in "\n".join(lines)
  assert "8 devices at an assumed efficiency of 0.86" in "\n".join(lines)
  kept = workdir.read_json(tmp_path / "plan" / "plan.json")
  assert kept["costs"][0]["work"]["flops"] == 2 * 512 * 1000 * 999 / 2
  assert kept["text"] == lines


def test_what_does_not_fit_a_device_is_said(root, tmp_path):
  config = program.load_config(f"{root}/configs/plan.py").to_dict()
  text = "\n".join(planning.run(tmp_path, config=config, hardware="h100"))
  assert "all pairs needs 165 GB on each device, which has 80 GB" in text


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"hardware": "v100"}, "unknown hardware 'v100': .*a100, h100, here"),
    ({"hardware": "here"}, "give --hardware, one of a100, h100, tpu-v5e"),
    ({"utilisation": 0.4}, "--utilisation=0.4 is of stated hardware"),
    ({"hardware": "h100", "utilisation": 2.0}, r"expected a share in \(0, 1\]"),
  ],
)
def test_refusals_come_before_any_work(root, tmp_path, options, message):
  config = program.load_config(f"{root}/configs/plan.py").to_dict()
  with pytest.raises(ValueError, match=message):
    planning.run(tmp_path, config=config, **options)
  assert not (tmp_path / "plan").exists()


def test_a_config_without_training_is_refused(root, tmp_path):
  config = program.load_config(f"{root}/configs/compare.py").to_dict()
  with pytest.raises(ValueError, match="no section 'data': what is planned"):
    planning.run(tmp_path, config=config, hardware="h100")
