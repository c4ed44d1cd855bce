# SPDX-License-Identifier: Apache-2.0
"""The real loading path, on tiny datasets prepared by the test itself."""

import io
import json
import sys

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from diffmem import data
from diffmem.data import tfds_source

ROWS = 24
PIXELS = np.random.default_rng(0).integers(
  0, 256, (ROWS, 6, 4, 3), dtype=np.uint8
)


def encoded(image):
  file = io.BytesIO()
  Image.fromarray(image).save(file, "png")
  return file.getvalue()


class TinyPictures(tfds.core.GeneratorBasedBuilder):
  """With ids like CIFAR-10's; TFDS shuffles the rows by their keys."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          "id": tfds.features.Text(),
          "image": tfds.features.Image(shape=(None, None, 3)),
          "label": tfds.features.ClassLabel(names=["even", "odd", "none"]),
          "caption": tfds.features.Text(),
        }
      )
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples(), "test": self.few()}

  def _generate_examples(self):
    for row in range(ROWS):
      yield row, self.row(row)

  def row(self, row):
    return {
      "id": f"train_{row:05d}",
      "image": encoded(PIXELS[row]),
      "label": row % 2,
      "caption": f"<b>row {row}</b> & more",
    }

  def few(self):
    yield 0, self.row(3)


class TinyPlain(tfds.core.GeneratorBasedBuilder):
  """Grey images and several captions, no ids and no labels."""

  VERSION = tfds.core.Version("1.0.0")

  def _info(self):
    return self.dataset_info_from_configs(
      features=tfds.features.FeaturesDict(
        {
          "picture": tfds.features.Image(shape=(None, None, 1)),
          "texts": tfds.features.Sequence(tfds.features.Text()),
        }
      )
    )

  def _split_generators(self, dl_manager):
    return {"train": self._generate_examples()}

  def _generate_examples(self):
    for row in range(5):
      yield (
        row,
        {"picture": encoded(PIXELS[row, ..., 0]), "texts": ["first", "second"]},
      )


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
  folder = tmp_path_factory.mktemp("tfds")
  for builder in (TinyPictures, TinyPlain):
    builder(data_dir=folder, file_format="array_record").download_and_prepare()
  return folder


def test_rows_come_in_the_order_of_their_ids(prepared):
  stored = tfds.data_source("tiny_pictures", split="train", data_dir=prepared)
  order = [row["id"] for row in stored]
  assert order != sorted(order), "the fixture must be shuffled to test this"
  dataset = data.load("tfds:tiny_pictures", folder=prepared)
  np.testing.assert_array_equal(dataset.images, PIXELS)
  np.testing.assert_array_equal(dataset.ids, np.arange(ROWS))
  np.testing.assert_array_equal(dataset.labels, np.arange(ROWS) % 2)
  assert dataset.captions[7] == "<b>row 7</b> & more"
  assert dataset.info["class_names"] == ["even", "odd", "none"]
  assert dataset.num_classes == 3
  assert "tensorflow" not in sys.modules


def test_split_and_version_are_part_of_the_name(prepared):
  dataset = data.load("tfds:tiny_pictures:1.0.0:test", folder=prepared)
  np.testing.assert_array_equal(dataset.ids, [3])
  part = data.load("tfds:tiny_pictures:train[:25%]", folder=prepared)
  assert 0 < len(part) < ROWS
  np.testing.assert_array_equal(part.images, PIXELS[part.ids])


def test_without_ids_rows_keep_their_stored_order(prepared):
  dataset = data.load("tfds:tiny_plain", folder=prepared)
  assert dataset.images.shape == (5, 6, 4, 1)
  assert dataset.labels is None
  assert dataset.captions == ("first",) * 5
  assert dataset.info["image_feature"] == "picture"
  assert dataset.info["id_feature"] is None


def test_crop_and_resize_apply(prepared):
  dataset = data.load(
    "tfds:tiny_pictures",
    crop="center",
    resize=2,
    filter="box",
    folder=prepared,
  )
  blocks = PIXELS[:, 1:5].reshape(ROWS, 2, 2, 2, 2, 3)
  np.testing.assert_allclose(
    dataset.images, blocks.mean((2, 4)), atol=1, rtol=0
  )
  with pytest.raises(ValueError, match=r"row 0 of .* is 4x6, .* crop='center'"):
    data.load("tfds:tiny_pictures", resize=2, folder=prepared)


def test_what_is_not_prepared_says_how(tmp_path, prepared):
  with pytest.raises(FileNotFoundError) as error:
    data.load("tfds:cifar10", folder=tmp_path)
  message = str(error.value)
  assert "\n" not in message
  assert "pip install 'diffmem[tfds-prepare]'" in message
  command = message.split('python -c "')[1].rstrip('"')
  compile(command, "command", "exec")
  assert str(tmp_path) in command
  assert "array_record" in command
  with pytest.raises(FileNotFoundError, match=r"tiny_pictures 2\.0\.0"):
    data.load("tfds:tiny_pictures:2.0.0", folder=prepared)
  with pytest.raises(ValueError, match=r"no split 'val': it has \['t"):
    data.load("tfds:tiny_pictures:val", folder=prepared)
  with pytest.raises(ValueError, match="expected tfds:NAME"):
    data.load("tfds:", folder=prepared)


def test_another_format_is_refused(tmp_path, prepared):
  source = prepared / "tiny_pictures" / "1.0.0"
  target = tmp_path / "tiny_pictures" / "1.0.0"
  target.mkdir(parents=True)
  for file in source.glob("*.json"):
    meta = json.loads(file.read_text())
    if "fileFormat" in meta:
      meta["fileFormat"] = "tfrecord"
      for part in meta["splits"]:
        part["filepathTemplate"] = part["filepathTemplate"].replace(
          "array_record", "tfrecord"
        )
    (target / file.name).write_text(json.dumps(meta))
  with pytest.raises(ValueError, match="not in array_record format: prepare"):
    data.load("tfds:tiny_pictures", folder=tmp_path)


def test_versions_and_configs_are_found(tmp_path):
  for version in ("2.0.0", "10.0.0", "9.1.0"):
    folder = tmp_path / "plain" / version
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").touch()
    folder = tmp_path / "many" / f"config_{version[0]}" / version
    folder.mkdir(parents=True)
    (folder / "dataset_info.json").touch()
  stopped = tmp_path / "plain" / "11.0.0.incompleteABC"
  stopped.mkdir()
  (stopped / "dataset_info.json").touch()
  assert tfds_source.find(tmp_path, "plain", None, None).name == "10.0.0"
  found = tfds_source.find(tmp_path, "many", "config_9", None)
  assert found.name == "9.1.0"
  with pytest.raises(ValueError, match=r"holds the configs .*many/config_1"):
    tfds_source.find(tmp_path, "many", None, None)


@pytest.mark.parametrize(
  ("values", "ids", "order"),
  [
    ([b"test_9", b"test_10"], [9, 10], [0, 1]),
    ([b"test_10", b"test_9"], [9, 10], [1, 0]),
    ([b"b", b"a", b"c"], [0, 1, 2], [1, 0, 2]),
    ([b"train_1", b"test_1"], [0, 1], [1, 0]),
    ([np.int64(7), np.int64(2)], [2, 7], [1, 0]),
  ],
)
def test_forms_of_ids(values, ids, order):
  found = tfds_source.order_by_id(values, "tfds:x")
  np.testing.assert_array_equal(found[0], ids)
  np.testing.assert_array_equal(found[1], order)


def test_doubled_ids_are_refused():
  with pytest.raises(ValueError, match="ids of tfds:x are not unique"):
    tfds_source.order_by_id([b"a_1", b"a_01"], "tfds:x")
