# SPDX-License-Identifier: Apache-2.0
import dataclasses
import types

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from diffmem import data
from diffmem.data import splits
from diffmem.data.dataset import Dataset

RNG = np.random.default_rng(5)
COUNT = 60
PIXELS = RNG.integers(0, 256, (COUNT, 2, 2, 1), dtype=np.uint8)
IDS = np.sort(RNG.choice(1000, COUNT, replace=False))
DATASET = Dataset(PIXELS, IDS)
SIZES = {"members": 20, "held_out": 15, "calibration": 10}


def split(dataset=DATASET, seed=0, **options):
  return data.split(dataset, **(SIZES | {"seed": seed} | options))


@settings(max_examples=30, deadline=None)
@given(
  sizes=st.tuples(st.integers(1, 20), st.integers(0, 20), st.integers(0, 20)),
  seed=st.integers(0, 2**40),
)
def test_parts_are_disjoint_ascending_and_as_large_as_asked(sizes, seed):
  members, held_out, calibration = sizes
  found = split(
    seed=seed, members=members, held_out=held_out, calibration=calibration
  )
  parts = [found.members, found.held_out, found.calibration]
  assert [len(part) for part in parts] == list(sizes)
  together = np.concatenate(parts)
  assert len(set(together.tolist())) == sum(sizes)
  assert set(together.tolist()) <= set(IDS.tolist())
  assert all(np.all(np.diff(part) > 0) for part in parts)
  np.testing.assert_array_equal(
    found.pool, sorted([*found.members, *found.held_out])
  )


def test_every_image_is_as_likely_a_member():
  count = sum(np.isin(IDS, split(seed=seed).members) for seed in range(600))
  # 200 expected for each, standard deviation 11.5.
  assert np.abs(count - 200).max() < 60
  assert count.std() < 16


def test_only_one_of_exact_duplicates_is_drawn():
  pixels = PIXELS.copy()
  pixels[[9, 30, 31]] = pixels[4]
  dataset = Dataset(pixels, IDS)
  found = split(dataset, members=30, held_out=15, calibration=12)
  drawn = np.concatenate([found.members, found.held_out, found.calibration])
  np.testing.assert_array_equal(np.sort(drawn), np.delete(IDS, [9, 30, 31]))
  assert found.info["duplicates_left_out"] == 3
  with pytest.raises(ValueError) as error:
    split(dataset, members=30, held_out=15, calibration=13)
  assert str(error.value) == (
    "members + held_out + calibration = 30 + 15 + 13 = 58, but the dataset "
    "has 57 distinct images (3 exact duplicates left out): ask for fewer"
  )


def test_planted_members_stand_in_training_that_often():
  found = split(planted=((5, 2), (3, 4)))
  values, counts = np.unique(found.copies, return_counts=True)
  np.testing.assert_array_equal(values, [1, 3, 5])
  np.testing.assert_array_equal(counts, [14, 4, 2])
  rows, times = np.unique(found.training_rows, return_counts=True)
  np.testing.assert_array_equal(rows, found.members)
  np.testing.assert_array_equal(times, found.copies)
  assert len(found.training_rows) == 14 + 12 + 10
  np.testing.assert_array_equal(split().copies, np.ones(20))
  assert split(planted=[(2, 20)]).copies.min() == 2


def test_one_choice_does_not_move_another():
  plain = split()
  for other in (split(planted=((5, 3),)), split(shadows=4)):
    np.testing.assert_array_equal(other.members, plain.members)
    np.testing.assert_array_equal(other.calibration, plain.calibration)
  wide = split(shadows=8)
  np.testing.assert_array_equal(wide.shadows[:4], split(shadows=4).shadows)
  assert not np.array_equal(split(seed=1).members, plain.members)
  assert plain.digest == split().digest == plain.info["sha256"]
  changed = {
    split(**change).digest
    for change in (
      {"seed": 1},
      {"planted": ((5, 3),)},
      {"shadows": 2},
      {"members": 19},
      {"calibration": 9},
    )
  }
  assert len(changed | {plain.digest}) == 6


def test_each_choice_has_its_own_stream(monkeypatch):
  used = []

  def recorded(count, *stream):
    used.append(stream)
    return np.arange(count)

  monkeypatch.setattr(splits, "permutation", recorded)
  split(planted=((5, 3),), shadows=4)
  assert len(used) == len(set(used)) == 4


def test_shadows_are_complementary_halves():
  found = split(shadows=6)
  assert found.shadows.shape == (6, 35)
  np.testing.assert_array_equal(found.shadows[0::2], ~found.shadows[1::2])
  np.testing.assert_array_equal(found.shadows.sum(1), [17, 18] * 3)
  np.testing.assert_array_equal(found.shadows.sum(0), [3] * 35)
  assert len({row.tobytes() for row in found.shadows}) == 6
  assert split().shadows is None


def test_the_split_of_a_shadow_is_its_half_of_the_pool():
  whole = split(shadows=4, planted=((5, 3),))
  digests = {whole.digest}
  for i in range(4):
    found = split(shadows=4, planted=((5, 3),), shadow=i)
    np.testing.assert_array_equal(found.members, whole.pool[whole.shadows[i]])
    np.testing.assert_array_equal(found.held_out, whole.pool[~whole.shadows[i]])
    np.testing.assert_array_equal(found.copies, np.ones(len(found.members)))
    for name in ("calibration", "pool", "shadows"):
      np.testing.assert_array_equal(getattr(found, name), getattr(whole, name))
    assert found.shadow == found.info["shadow"] == i
    assert found.info["members"] == len(found.members)
    assert found.info["planted"] == []
    assert found.info["sha256"] == found.digest
    assert found.digest == splits.of_shadow(whole, i).digest
    digests.add(found.digest)
  assert len(digests) == 5
  assert whole.shadow is None
  assert "shadow" in whole.info


def test_without_members_the_shadows_share_the_held_out_images():
  found = split(members=0, held_out=31, shadows=2)
  assert not len(found.members)
  assert not len(found.training_rows)
  np.testing.assert_array_equal(found.pool, found.held_out)
  sizes = [
    len(split(members=0, held_out=31, shadows=2, shadow=i).members)
    for i in (0, 1)
  ]
  assert sizes == [15, 16]


@pytest.mark.parametrize(
  ("options", "message"),
  [
    ({"shadow": 0}, "shadow=0: the split has 0 shadows: set shadows, an even"),
    ({"shadows": 4, "shadow": 4}, "shadow=4: the split has 4 shadows, 0 to 3"),
    ({"shadows": 4, "shadow": -1}, "shadow=-1: the split has 4 shadows"),
    ({"members": 0, "held_out": 1, "shadows": 2}, "a pool of 1 images"),
    ({"planted": ((5, 12), (2, 9))}, "asks for 21 members .* only 20: plant"),
    ({"planted": ((0, 3),)}, r"planted=\(0, 3\): expected \(copies >= 1"),
    ({"planted": ((5, 3, 1),)}, r"planted=\(5, 3, 1\)"),
    ({"shadows": 3}, "shadows=3: expected an even number"),
    ({"shadows": -2}, "shadows=-2"),
    ({"members": None}, "members=None: the random split needs a number"),
    ({"held_out": -1}, "held_out=-1"),
    ({"members": 0}, "members=0"),
    ({"members": 40}, r"40 \+ 15 \+ 10 = 65, but .* 60 distinct"),
    ({"name": "half"}, r"split 'half': expected one of \['random', 'bernou"),
    ({"path": "x.npz"}, "path=x.npz: the random split reads no file"),
    ({"seed": -1}, "seed=-1"),
  ],
)
def test_impossible_splits_are_refused(options, message):
  with pytest.raises(ValueError, match=message) as error:
    split(**options)
  assert "\n" not in str(error.value)


def test_a_split_is_read_as_it_was_saved(tmp_path):
  for shadows in (0, 4):
    made = split(planted=((4, 2),), shadows=shadows)
    splits.save(made, tmp_path / "split.npz")
    found = splits.read(tmp_path / "split.npz")
    for name in splits.ARRAYS:
      one, two = getattr(made, name), getattr(found, name)
      assert (one is None) == (two is None)
      if one is not None:
        assert one.dtype == two.dtype
        np.testing.assert_array_equal(one, two)
    assert found.info == made.info
    assert found.digest == made.digest


def test_damaged_splits_are_refused(tmp_path):
  path = tmp_path / "split.npz"
  made = split()
  splits.save(made, path)
  content = bytearray(path.read_bytes())
  content[200] ^= 1
  path.write_bytes(content)
  with pytest.raises(ValueError, match=r"split.npz is damaged .*: delete it"):
    splits.read(path)
  splits.save(
    dataclasses.replace(
      made,
      members=made.members[:-1],
      copies=made.copies[:-1],
      pool=made.pool[made.pool != made.members[-1]],
    ),
    path,
  )
  with pytest.raises(ValueError, match="do not have the recorded sha256"):
    splits.read(path)
  with pytest.raises(FileNotFoundError):
    splits.read(tmp_path / "absent.npz")


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"held_out": [1, 9]}, "overlap"),
    ({"calibration": [8, 7]}, "must ascend"),
    ({"copies": [1]}, "number of copies"),
    ({"copies": [1, 0]}, "number of copies"),
    ({"pool": [1, 2]}, "the pool must be"),
  ],
)
def test_what_is_no_split_is_refused(change, message):
  good = splits.Split(*map(np.array, ([1, 2], [3, 4], [5, 6], [1, 1],
                                      [1, 2, 3, 4])))  # fmt: skip
  fields = vars(good) | {key: np.array(x) for key, x in change.items()}
  # Not through the constructor, where the tests' type checker comes first.
  with pytest.raises(ValueError, match=message):
    splits.Split.__post_init__(types.SimpleNamespace(**fields))
