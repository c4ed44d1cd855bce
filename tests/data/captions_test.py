# SPDX-License-Identifier: Apache-2.0
import json

import numpy as np
import pytest

from diffmem import data
from diffmem.data import captions, encoders

TEXTS = ("a cat", "a dog, asleep", "a cat", "two cats", "a dog, asleep")
HASHED = dict(encoder="hashed", path=None, length=4, features=8, cut=False)


def dataset(texts=TEXTS):
  rng = np.random.default_rng(0)
  return data.Dataset(
    images=rng.integers(0, 256, (len(texts), 2, 2, 1), np.uint8),
    ids=np.arange(len(texts)) * 3,
    captions=texts,
    info={"source": "npz:a.npz"},
  )


def prepare(root, texts=TEXTS, **options):
  options = HASHED | options
  return captions.prepare(root, dataset(texts), progress=False, **options)


def times(folder):
  """When each file was written."""
  files = [f for f in folder.rglob("[!.]*") if f.is_file()]
  return {file: file.stat().st_mtime_ns for file in files}


def test_each_distinct_caption_is_embedded_once(tmp_path):
  made = prepare(tmp_path)
  assert made.texts == ("a cat", "a dog, asleep", "two cats")
  np.testing.assert_array_equal(made.ids, [0, 1, 0, 2, 1])
  assert made.tokens.shape == (3, 4, 8)
  np.testing.assert_array_equal(made.mask.sum(axis=1), [2, 4, 2])
  assert (made.tokens[~made.mask] == 0).all()
  assert made.info["captions"] == len(made) == 3
  assert json.loads((tmp_path / "captions" / "texts.json").read_text()) == list(
    made.texts
  )
  np.testing.assert_array_equal(made.find(["two cats", "a cat"]), [2, 0])
  with pytest.raises(ValueError, match="1 of 2 prompts are no captions"):
    made.find(["a cat", "a cow"])


def test_conditions_are_trees(tmp_path):
  made = prepare(tmp_path)
  cond = made.cond(made.ids[[3, 0]])
  np.testing.assert_array_equal(cond["tokens"], made.tokens[[2, 0]])
  np.testing.assert_array_equal(cond["mask"], made.mask[[2, 0]])
  null = made.null()
  assert null["tokens"].shape == (4, 8)
  assert null["tokens"].dtype == cond["tokens"].dtype == np.float32
  assert not null["tokens"].any()
  assert not null["mask"].any()


def test_read_again_is_the_same_and_so_from_disk(tmp_path, monkeypatch):
  made = prepare(tmp_path)
  before = times(tmp_path)
  again = [prepare(tmp_path), captions.read(tmp_path, dataset())]
  monkeypatch.setattr(captions, "MEMORY", 0)  # tokens stay on disk
  again.append(captions.read(tmp_path, dataset()))
  for found in again:
    np.testing.assert_array_equal(found.ids, made.ids)
    cond, expected = found.cond([2, 1, 1]), made.cond([2, 1, 1])
    for key, value in expected.items():
      np.testing.assert_array_equal(cond[key], value)
    assert (found.texts, found.info) == (made.texts, made.info)
    assert found.digest == made.digest
  assert times(tmp_path) == before


def test_a_stopped_run_goes_on(tmp_path, monkeypatch):
  """Encoding that fails after a chunk loses nothing and repeats nothing."""
  whole = prepare(tmp_path / "whole")
  monkeypatch.setattr(captions, "CHUNK", 1)  # one caption a chunk
  calls = []

  def failing(name, **options):
    made = encoders.hashed(None, options["length"], options["features"])

    def encode(texts):
      calls.extend(texts)
      if len(calls) == 2:
        raise KeyboardInterrupt
      return made.encode(texts)

    return encoders.dataclasses.replace(made, encode=encode)

  monkeypatch.setattr(captions.encoders, "create", failing)
  with pytest.raises(KeyboardInterrupt):
    prepare(tmp_path / "run")
  with pytest.raises(FileNotFoundError, match="diffmem-train"):
    captions.read(tmp_path / "run", dataset())
  found = prepare(tmp_path / "run")
  assert calls == ["a cat", "a dog, asleep", "a dog, asleep", "two cats"]
  np.testing.assert_array_equal(found.tokens, whole.tokens)
  np.testing.assert_array_equal(found.mask, whole.mask)


@pytest.mark.parametrize(
  ("texts", "change", "message"),
  [
    (None, {}, "npz:a.npz has no captions"),
    (("a", "", "\t"), {}, "2 of 3 images of npz:a.npz have no caption, 3 the"),
    (TEXTS, {"length": 3}, "1 of 3 captions need more than length=3 tokens"),
    (TEXTS, {"length": 3}, "the longest 4 ('a dog, asleep'): set length=4, or"),
    (TEXTS, {"length": 0}, "data.captions.length=0: expected 1 or more"),
    (TEXTS, {"features": None}, "needs a length (4) and features (None)"),
    (TEXTS, {"path": "x"}, "the hashed encoder reads no path (x)"),
    (TEXTS, {"encoder": "hash"}, "data.captions.encoder='hash': expected one"),
    (TEXTS, {"encoder": "t5"}, "T5 needs a path (None: "),
  ],
)
def test_bad_input_is_refused_before_anything_is_written(
  tmp_path, texts, change, message
):
  given = dataset(texts or ("x",) * 3)
  if texts is None:
    given = data.Dataset(
      images=given.images, ids=given.ids, info={"source": "npz:a.npz"}
    )
  with pytest.raises(ValueError) as error:
    captions.prepare(tmp_path, given, progress=False, **(HASHED | change))
  assert message in str(error.value)
  assert not list(tmp_path.iterdir())


def test_long_captions_are_cut_where_asked(tmp_path):
  made = prepare(tmp_path, length=3, cut=True)
  whole = prepare(tmp_path / "whole")
  assert made.info["cut"] == 1
  assert whole.info["cut"] == 0
  np.testing.assert_array_equal(made.tokens, whole.tokens[:, :3])


def test_any_text_becomes_a_condition(tmp_path):
  made = prepare(tmp_path)
  texts = ["a cow", "two cats", "dogs", "a cat"]
  found = captions.conditions(made, texts, **HASHED)
  alone = prepare(tmp_path / "other", tuple(texts))
  expected = alone.cond(alone.ids)
  assert set(found) == set(expected)
  for key, value in expected.items():
    np.testing.assert_array_equal(found[key], value)
  own = captions.conditions(made, ["a cat"], **(HASHED | {"features": 5}))
  np.testing.assert_array_equal(own["tokens"], made.tokens[:1])
  with pytest.raises(ValueError, match="is not the one that embedded"):
    captions.conditions(made, texts, **(HASHED | {"features": 5}))
  with pytest.raises(ValueError, match="1 of 1 captions need more"):
    captions.conditions(made, ["a b c d e"], **HASHED)
  with pytest.raises(ValueError, match="finds no token in ' '"):
    captions.conditions(made, [" "], **HASHED)


def test_other_captions_or_encoders_do_not_match_the_store(tmp_path):
  made = prepare(tmp_path)
  other = (*TEXTS[:-1], "a cow")
  with pytest.raises(ValueError, match="'texts_sha256'"):
    prepare(tmp_path, other)
  with pytest.raises(ValueError, match="are not the 4 of npz:a"):
    captions.read(tmp_path, dataset(other))
  with pytest.raises(ValueError, match=r"data\.captions\.features = 8, this"):
    prepare(tmp_path, features=6)
  file = tmp_path / "embeddings.npz"
  np.savez(file, texts=made.texts, tokens=made.tokens, mask=made.mask)
  given = dict(encoder="file", path=file, length=None, features=None)
  with pytest.raises(ValueError, match=r"data\.captions\.encoder = 'hashed'"):
    prepare(tmp_path, **given)
  prepare(tmp_path / "other", **given)
  np.savez(file, texts=made.texts, tokens=made.tokens + 1, mask=made.mask)
  with pytest.raises(ValueError, match="its input 'encoder_sha256'"):
    prepare(tmp_path / "other", **given)


def test_prepared_data_must_have_captions(tmp_path):
  split = dict(members=2, held_out=1, calibration=1, planted=(), shadows=0)
  settings = dict(
    seed=0,
    source="digits",
    crop="none",
    resize=None,
    filter="lanczos",
    data_dir=None,
    split=dict(name="random", path=None, shadow=None, **split),
  )
  with pytest.raises(ValueError, match="digits has no captions; give a source"):
    data.prepare(tmp_path / "data", captions=HASHED, **settings)
  data.prepare(tmp_path / "data", captions=None, **settings)
