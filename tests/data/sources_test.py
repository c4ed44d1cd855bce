# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from sklearn import datasets

from diffmem import data


def test_digits_are_scikit_learns():
  dataset = data.load("digits")
  bunch = datasets.load_digits()
  assert dataset.images.shape == (1797, 8, 8, 1)
  levels = [round(level * 255 / 16) for level in range(17)]
  exact = np.array(levels)[bunch.images.astype(int)]
  np.testing.assert_array_equal(dataset.images[..., 0], exact)
  np.testing.assert_array_equal(dataset.labels, bunch.target)
  np.testing.assert_array_equal(dataset.ids, np.arange(1797))
  assert dataset.num_classes == 10


def test_the_record_says_what_was_done():
  one = data.load("digits")
  two = data.load("digits", resize=4, filter="box")
  assert one.info["rows"] == 1797
  assert two.info["shape"] == [4, 4, 1]
  assert one.info["sha256"] == data.load("digits").info["sha256"]
  assert one.info["sha256"] != two.info["sha256"]
  assert one.info["annotations_sha256"] == two.info["annotations_sha256"]


@pytest.mark.parametrize(
  ("source", "options", "message"),
  [
    ("cifar10", {}, "source 'cifar10': expected digits, scenes, npz:PATH"),
    ("", {}, "expected digits, scenes, npz:PATH"),
    ("digits:8", {}, "digits take no argument"),
    ("digits", {"crop": "middle"}, "crop='middle'"),
    ("digits", {"folder": "/data"}, "for tfds sources only"),
  ],
)
def test_unknown_sources_are_refused(source, options, message):
  with pytest.raises(ValueError, match=message):
    data.load(source, **options)
