# SPDX-License-Identifier: Apache-2.0
"""A tiny dataset that the test itself prepares, images undecoded."""

import csv
import io

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

import diffmem
from diffmem.sample import imports, tfds_files

PIXELS = np.random.default_rng(0).integers(0, 256, (9, 6, 4, 3), dtype=np.uint8)


class TinyGenerations(tfds.core.GeneratorBasedBuilder):
  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          "id": tfds.features.Text(),
          "image": tfds.features.Image(shape=(None, None, 3)),
          "caption": tfds.features.Text(),
        }
      )
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for row, pixels in enumerate(PIXELS):
      file = io.BytesIO()
      Image.fromarray(pixels).save(file, "png")
      content = file.getvalue()
      image = content[:-60] if row == 4 else content
      caption = ["", "<b>"][row % 2]
      yield row, {"id": f"g_{row}", "image": image, "caption": caption}


@pytest.fixture
def prepared(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
  monkeypatch.setattr(tfds_files, "BLOCK", 4)
  TinyGenerations(
    data_dir=tmp_path / "tfds", file_format="array_record"
  ).download_and_prepare()


@pytest.mark.usefixtures("prepared")
def test_a_dataset_with_a_damaged_image(tmp_path):
  sample = dict(path="tfds:tiny_generations", prompts=None, crop="none")
  sample |= dict(resize=None, filter="box", max_pixels=2**20, batch=3)
  imports.run(tmp_path / "work", sample=sample, progress=False)
  bank = diffmem.open_bank(tmp_path / "work")
  rows = [int(name.removeprefix("g_")) for name in bank.names]
  assert sorted(rows) == [0, 1, 2, 3, 5, 6, 7, 8]
  np.testing.assert_array_equal(bank[:], PIXELS[rows])
  texts = [bank.prompts[i] for i in bank.prompt_ids]
  assert texts == [["", "<b>"][row % 2] for row in rows]
  with (tmp_path / "work/sample/left_out.csv").open(newline="") as f:
    _, (name, why) = csv.reader(f)
  assert name == "g_4"
  assert "is corrupt" in why
  assert bank.meta["prompts"]["from"] == "captions of the set"
  before = (tmp_path / "work/sample/meta.json").read_bytes()
  imports.run(tmp_path / "work", sample=sample, progress=False)
  assert (tmp_path / "work/sample/meta.json").read_bytes() == before


def test_one_that_is_not_prepared(tmp_path, monkeypatch):
  monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path))
  sample = dict(path="tfds:nowhere", prompts=None, crop="none", resize=None)
  sample |= dict(filter="box", max_pixels=2**20, batch=3)
  with pytest.raises(FileNotFoundError, match="prepare it once with"):
    imports.run(tmp_path / "work", sample=sample, progress=False)
