# SPDX-License-Identifier: Apache-2.0
"""The second distance finds what pixels miss, under the same control."""

import csv
import inspect

import numpy as np
import pytest

from diffmem import distances, features, workdir
from diffmem.extraction import run, second, second_run
from tests.extraction import run_test as stage

SECTION = {"name": "descriptor", "batch": 64, "mirror": True}


def unit(rng, *shape):
  x = rng.normal(size=shape)
  return (x / np.linalg.norm(x, axis=-1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("metric", ["cosine", "l2"])
@pytest.mark.parametrize("orientations", [1, 2])
def test_nearest_of_both_orientations(metric, orientations, monkeypatch):
  monkeypatch.setattr(second, "BLOCK", 4)
  rng = np.random.default_rng(0)
  queries = [unit(rng, 9, 5) for _ in range(orientations)]
  references = unit(rng, 7, 5)
  references[3] = references[5]  # ties go to the lower row
  queries[-1][2] = references[5]
  found = second.search(queries, references, metric)
  every = np.stack(
    [
      [[_distance(x, y, metric) for y in references] for x in vectors]
      for vectors in queries
    ]
  ).min(axis=0)
  np.testing.assert_array_equal(found.rows, every.argmin(axis=1))
  np.testing.assert_allclose(found.distances, every.min(axis=1), atol=1e-6)
  assert found.rows[2] == 3


def _distance(x, y, metric):
  x, y = x.astype(float), y.astype(float)
  if metric == "l2":
    return np.linalg.norm(x - y)
  return np.sum((x / np.linalg.norm(x) - y / np.linalg.norm(y)) ** 2) / 2


@pytest.fixture(scope="module")
def planted():
  """300 images a set, 400 generations, of them 25 near copies of 20 members."""
  rng = np.random.default_rng(1)
  sets = {
    name: (ids, unit(rng, 300, 16))
    for name, ids in zip(
      ("members", "held_out", "calibration"),
      np.arange(900).reshape(3, 300) * 2 + 1,
      strict=True,
    )
  }
  vectors = unit(rng, 400, 16)
  members = sets["members"][1]
  vectors[:20] = members[:20] + 0.02 * unit(rng, 20, 16)
  vectors[20:25] = members[:5] + 0.01 * unit(rng, 5, 16)  # and again
  return sets, vectors


def go(planted, rate=0.01, **options):
  sets, vectors = planted
  seen = {
    name: second.searched(ids, [vectors], x, "cosine", centred=True)
    for name, (ids, x) in sets.items()
  }
  real = second.search([sets["held_out"][1]], sets["members"][1], "cosine")
  return seen, second.extract(
    **seen,
    real=real,
    copies=np.where(np.arange(300) < 20, 5, 1),
    pixel_matches=sets["members"][0][[0, 1, 40]],
    false_match_rate=rate,
    seed=0,
    **options,
  )


def test_planted_copies_and_nothing_else(planted):
  seen, found = go(planted)
  got = found.results
  assert set(found.matches.rows[:20]) == set(range(20))
  assert got["planted"]["5"] == [20, 20]
  false = got["unique"] - 20
  assert got["searched"] == got["held_out"]["searched"] == 300
  # One in a hundred of 300 images, on each side.
  assert false <= 10
  assert got["held_out"]["unique"] <= 10
  assert got["also_pixels"] == 2
  assert got["only_second"] == got["unique"] - 2
  assert got["only_pixels"] == 1
  assert got["calibration"]["method"] == "order statistic"
  best = np.full(300, np.inf)
  near = seen["calibration"].nearest
  for row, distance in zip(near.rows, near.distances, strict=True):
    best[row] = min(best[row], distance)
  assert np.sum(best <= got["threshold"]) == 3
  first = found.matches
  assert first.hits[first.rows.tolist().index(0)] == 2
  assert first.generations[first.rows.tolist().index(0)] == 20  # the nearer
  np.testing.assert_allclose(first.ratios, first.distances / got["threshold"])
  low, high = got["unique_interval"]
  assert low < got["unique"] / 300 < high


def test_the_threshold_stays_below_unlike_images(planted):
  seen, found = go(planted, rate=0.9)
  assert found.results["calibration"]["method"] == "cap"
  cap = np.median(seen["calibration"].centres)
  assert found.results["threshold"] == cap


def test_an_equal_part_of_the_members_is_the_control(planted):
  sets, vectors = planted
  ids, x = sets["members"]
  part = ids[::2]
  some = second.subset(x, ids, part)
  np.testing.assert_array_equal(some, x[::2])
  control = second.searched(part, [vectors], some, "cosine")
  _, found = go(planted, control_members=control)
  assert 10 <= found.results["control"]["members"] <= 15
  assert found.results["unique"] >= 20


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  root = tmp_path_factory.mktemp("second")
  return root, *stage.prepare(root, mirror=False)


def run_stage(root, section):
  run.run(
    root,
    seed=3,
    extraction=stage.CONFIG,
    features=section,
    progress=False,
  )
  return workdir.read_json(root / "extraction" / "results.json")


def test_stage(made):
  """Mirrored copies, which pixels do not find without the option."""
  root, _dataset, split, bank = made
  got = run_stage(root, SECTION)
  assert got["planted"]["20"] == [0, 2]
  other = got["second"]
  assert (other["name"], other["metric"]) == ("descriptor", "cosine")
  assert other["planted"]["20"] == [2, 2]
  assert other["planted"]["5"] == [3, 3]
  assert other["held_out"]["searched"] == other["searched"] == 60
  assert other["held_out"]["real_searched"] == 60
  assert other["only_second"] >= 5
  rows = stage.table(root, "second_matches")
  assert list(rows[0]) == list(run.COLUMNS)
  assert len(rows) == other["unique"]
  planted = {int(r["training_id"]) for r in rows if int(r["copies"]) > 1}
  assert planted == set(split.members[split.copies > 1].tolist())
  assert all(float(row["ratio"]) <= 1 for row in rows)
  for row in rows[:5]:
    generation = bank[int(row["generation_id"])]
    member = made[1].take([int(row["training_id"])])
    near = distances.nearest(generation[None], member, 1, mirror=True)
    assert near.distances[0, 0] < 0.02
  with open(root / "extraction" / "second_held_out_matches.csv") as f:
    assert len(list(csv.DictReader(f))) == other["held_out"]["unique"]
  vectors = (
    root / "features" / "descriptor" / "members" / "vectors" / "zarr.json"
  )
  before = vectors.stat().st_mtime_ns
  again = run_stage(root, SECTION | {"mirror": False})
  assert again["second"]["planted"]["20"][0] < 2
  assert vectors.stat().st_mtime_ns == before  # embedded once


def test_without_features_nothing_of_them_is_left(made):
  root = made[0]
  run_stage(root, SECTION)
  got = run_stage(root, {"name": None})
  assert "second" not in got
  assert not (root / "extraction" / "second_matches.csv").exists()


def test_vectors_from_a_file(made, tmp_path):
  root, dataset, _split, bank = made
  flipped = np.ascontiguousarray(np.asarray(bank)[:, :, ::-1])
  embed = features.create("descriptor").embed
  path = tmp_path / "vectors.npz"
  np.savez(
    path,
    generations=embed(flipped),
    data=embed(dataset.images),
    data_ids=dataset.ids,
  )
  section = {"name": "file", "batch": 64, "mirror": False, "path": str(path)}
  got = run_stage(root, section)["second"]
  assert got["planted"]["20"] == [2, 2]
  np.savez(path, generations=embed(flipped), data=embed(dataset.images[:5]))
  with pytest.raises(ValueError, match="none for id"):  # it is read again
    run_stage(root, section)
  with pytest.raises(ValueError, match=r"set features\.mirror=False"):
    run_stage(root, section | {"mirror": True})


@pytest.mark.parametrize(
  ("section", "message"),
  [
    (SECTION | {"name": "x"}, "features.name = 'x', expected one of pixels"),
    (SECTION | {"batch": 0}, "features.batch = 0"),
    ({"name": "pixels", "batch": 3}, "features has no 'mirror'"),
  ],
)
def test_refused_before_anything_is_read(tmp_path, section, message):
  with pytest.raises(ValueError, match=message):
    run_stage(tmp_path, section)


def test_a_split_without_calibration_is_refused(made):
  root, dataset, split, bank = made

  class Split:
    members = split.members
    held_out = calibration = split.members[:0]

  with pytest.raises(ValueError, match="at least 2 images in held_out"):
    # Past the tests' own type checks: nothing was found before.
    inspect.unwrap(second_run.run)(
      root,
      dataset,
      Split,
      bank,
      section=SECTION,
      parts={},
      found=None,
      false_match_rate=0.01,
      seed=0,
    )
