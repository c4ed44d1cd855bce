# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
from scipy import stats

from diffmem.data import encoders


def hashed(length=6, features=8):
  return encoders.create("hashed", path=None, length=length, features=features)


def vectors(encoder, words):
  """Word vectors without their place."""
  tokens, _ = encoder.encode(words)
  return tokens[:, 0] - encoders._sinusoids(1, encoder.features)[0]


def test_a_token_is_its_word_and_its_place():
  encoder = hashed()
  tokens, mask = encoder.encode(["one two, one", "two one"])
  assert tokens.dtype == np.float32
  np.testing.assert_array_equal(
    mask, np.arange(6) < np.array([[4], [2]])
  )  # the comma is a token
  np.testing.assert_array_equal(encoder.counts(["one two, one"]), [4])
  place = encoders._sinusoids(6, 8)
  assert (place**2).sum(axis=1) == pytest.approx(4)
  one, two, comma = vectors(encoder, ["one", "two", ","])
  expected = [one + place[0], two + place[1], comma + place[2], one + place[3]]
  np.testing.assert_allclose(tokens[0, :4], expected, atol=1e-6)
  np.testing.assert_allclose(
    tokens[1, :2], [two + place[0], one + place[1]], atol=1e-6
  )
  assert not tokens[~mask].any()


def test_a_text_is_embedded_alike_in_any_company():
  encoder = hashed()
  alone, _ = encoder.encode(["a b"])
  among, _ = hashed().encode(["c", "a b", "d e f"])
  np.testing.assert_array_equal(among[1], alone[0])


def test_word_vectors_are_fixed_standard_and_independent():
  """Known values: a change of the encoder would orphan every store."""
  encoder = hashed(features=64)
  many = vectors(encoder, [f"w{i}" for i in range(100)]).astype(np.float64)
  assert stats.kstest(many.ravel(), "norm").pvalue > 1e-3
  off = (many @ many.T / 64)[~np.eye(100, dtype=bool)]
  assert abs(off.mean()) < 0.02
  assert off.std() == pytest.approx(1 / 8, abs=0.02)
  first = vectors(hashed(features=3), ["digit"])[0]
  np.testing.assert_allclose(first, [-0.127608, 0.463069, -0.906494], atol=1e-5)


def save(path, **change):
  rng = np.random.default_rng(0)
  arrays = dict(
    texts=np.array(["a b", "c"]),
    tokens=rng.normal(size=(2, 3, 4)),
    mask=np.array([[True, True, False], [True, False, False]]),
  )
  arrays |= change
  np.savez(path, **{k: v for k, v in arrays.items() if v is not None})
  return arrays


def from_file(path, length=None, features=None):
  return encoders.create("file", path=path, length=length, features=features)


def test_embeddings_from_a_file(tmp_path):
  given = save(tmp_path / "a.npz")
  encoder = from_file(tmp_path / "a.npz", length=3)
  assert (encoder.length, encoder.features) == (3, 4)
  tokens, mask = encoder.encode(["c", "a b", "c"])
  np.testing.assert_array_equal(mask, given["mask"][[1, 0, 1]])
  expected = np.where(mask[..., None], given["tokens"][[1, 0, 1]], 0)
  np.testing.assert_array_equal(tokens, expected.astype(np.float32))
  np.testing.assert_array_equal(encoder.counts(["c", "a b"]), [1, 2])
  with pytest.raises(ValueError, match="1 of 2 captions are none of them, 'd'"):
    encoder.counts(["a b", "d"])
  again = from_file(tmp_path / "a.npz")
  assert again.digest == encoder.digest
  save(tmp_path / "a.npz", texts=np.array(["a b", "d"]))
  assert from_file(tmp_path / "a.npz").digest != encoder.digest


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(mask=None), "has no mask (it has texts, tokens): expected texts"),
    (dict(texts=np.array(["a", "a"])), "a text stands in it twice"),
    (dict(tokens=np.zeros((2, 3))), "tokens float64[2, 3], mask"),
    (dict(mask=np.ones((2, 3))), "mask float64[2, 3]"),
    (dict(texts=np.array(["a"])), "holds texts <U1[1]"),
    (dict(texts=np.array(["a", 1], object)), "never unpickled|pickle"),
  ],
)
def test_damaged_files_are_refused(tmp_path, change, message):
  save(tmp_path / "a.npz", **change)
  with pytest.raises(ValueError) as error:
    from_file(tmp_path / "a.npz")
  assert any(part in str(error.value) for part in message.split("|"))
  assert "\n" not in str(error.value)


def test_files_of_other_sizes_or_none_are_refused(tmp_path):
  save(tmp_path / "a.npz")
  with pytest.raises(ValueError, match=r"features=5, but .* has 4: set 4"):
    from_file(tmp_path / "a.npz", features=5)
  with pytest.raises(FileNotFoundError, match="no such file"):
    from_file(tmp_path / "b.npz")
  with pytest.raises(ValueError, match="path is missing"):
    from_file(None)
