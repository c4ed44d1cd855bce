# SPDX-License-Identifier: Apache-2.0
"""The stage: from searches on disk to tables, images and controls."""

import csv

import numpy as np
import pytest

import diffmem.data
from diffmem import distances, store, workdir
from diffmem.distances import run as search
from diffmem.extraction import run

CONFIG = {
  "alpha": 0.5,
  "neighbours": 30,
  "centring": "generation",
  "false_match_rate": 0.01,
  "gallery": 4,
}
PLANTED = ((20, 2), (5, 3))


def prepare(root, *, members=60, held_out=60, k=31, mirror=None):
  """Data, a bank with copies of some members, and the searches."""
  dataset, split = diffmem.data.prepare(
    root / "data",
    seed=0,
    source="digits",
    crop="none",
    resize=None,
    filter="lanczos",
    data_dir=None,
    split={
      "members": members,
      "held_out": held_out,
      "calibration": 60,
      "planted": PLANTED,
    },
  )
  used = np.concatenate([split.pool, split.calibration])
  others = np.setdiff1d(dataset.ids, used)[:100]
  planted = split.members[split.copies > 1]
  rng = np.random.default_rng(0)
  copies = dataset.take(np.repeat(planted, 3)).copy()
  copies[1::3] ^= rng.integers(0, 4, copies[1::3].shape, dtype=np.uint8)
  if mirror is not None:
    copies = copies[:, :, ::-1]
  bank = np.concatenate([dataset.take(others), copies])
  images = store.create(
    root / "sample" / "images", shape=bank.shape, dtype="uint8", chunk=64
  )
  for number in range(images.chunks):
    images.write(number, bank[images.rows(number)])
  sets = {n: dataset.take(getattr(split, n)) for n in diffmem.data.SETS}
  pairs = [("generations", bank, name) for name in sets]
  pairs += [("held_out", sets["held_out"], "members")]
  pairs += [("members", sets["members"], "members")]
  for name, queries, references in pairs:
    search.search(
      root / "distances" / f"{name}_to_{references}",
      queries,
      sets[references],
      k=k,
      block=64,
      mirror=bool(mirror),
      progress=False,
    )
  config = {"distances": {"k": k, "mirror": bool(mirror)}}
  meta = {"status": "finished", "config": config, "inputs": {}}
  workdir.write_json(root / "distances" / "meta.json", meta)
  return dataset, split, bank


def go(root, **change):
  run.run(root, seed=3, extraction=CONFIG | change, progress=False)
  return workdir.read_json(root / "extraction" / "results.json")


def table(root, name):
  with open(root / "extraction" / f"{name}.csv", newline="") as file:
    return list(csv.DictReader(file))


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  root = tmp_path_factory.mktemp("run")
  dataset, split, bank = prepare(root)
  return root, dataset, split, bank, go(root)


def test_numbers(made):
  _, _, _, bank, got = made
  assert got["generated"] == len(bank) == 115
  assert got["planted"]["20"] == [2, 2]
  assert got["planted"]["5"] == [3, 3]
  assert got["searched"] == got["held_out"]["searched"] == 60
  assert got["unique"] == sum(found for found, _ in got["planted"].values())
  assert got["held_out"]["unique"] <= 3
  assert got["held_out"]["real_searched"] == 60
  assert got["rule"]["neighbours"] == got["rule"]["neighbours_asked"] == 30
  assert got["control"]["searched"] == 60
  meta = workdir.require(made[0], "extraction")
  assert meta["unique"] == got["unique"]


def test_matches_are_one_line_an_id_nearest_first(made):
  root, dataset, split, bank, got = made
  rows = table(root, "matches")
  assert len(rows) == got["unique"]
  assert list(rows[0]) == list(run.COLUMNS)
  ids = [int(row["training_id"]) for row in rows]
  assert len(set(ids)) == len(ids)
  values = [float(row["distance"]) for row in rows]
  assert values == sorted(values)
  for row in rows:
    index = np.searchsorted(split.members, int(row["training_id"]))
    assert split.members[index] == int(row["training_id"])
    assert int(row["copies"]) == split.copies[index]
    generation = bank[int(row["generation_id"])][None]
    pair = distances.nearest(
      generation, dataset.take([int(row["training_id"])]), 1
    )
    np.testing.assert_allclose(
      float(row["distance"]), pair.distances[0, 0], atol=1e-8
    )
    assert float(row["ratio"]) <= 1
    label = dataset.labels[dataset.rows([int(row["training_id"])])[0]]
    assert int(row["label"]) == label
    if int(row["copies"]) > 1:
      assert int(row["hits"]) == 3
      assert float(row["distance"]) == 0


def test_near_and_false_tables(made):
  root, _, split, _, got = made
  near = {int(row["training_id"]) for row in table(root, "near_misses")}
  found = {int(row["training_id"]) for row in table(root, "matches")}
  assert len(near) == CONFIG["gallery"]
  assert not near & found
  assert near <= set(split.members.tolist())
  false = [int(row["training_id"]) for row in table(root, "held_out_matches")]
  assert len(false) == got["held_out"]["unique"]
  assert set(false) <= set(split.held_out.tolist())


def test_gallery_shows_the_first_rows(made):
  root, dataset, _, bank, _ = made
  with np.load(root / "extraction" / "gallery.npz") as gallery:
    pictures = dict(gallery)
  tables = {
    "match": "matches",
    "near": "near_misses",
    "false": "held_out_matches",
  }
  assert set(pictures) == {
    f"{key}_{side}"
    for key in tables
    for side in ("generations", "training", "rows")
  }
  for key, name in tables.items():
    rows = table(root, name)[: CONFIG["gallery"]]
    np.testing.assert_array_equal(pictures[f"{key}_rows"], np.arange(len(rows)))
    assert len(pictures[f"{key}_training"]) == len(rows)
    for side, column, of in (
      ("training", "training_id", dataset.take),
      ("generations", "generation_id", lambda ids: bank[ids]),
    ):
      ids = np.array([int(row[column]) for row in rows], np.int64)
      np.testing.assert_array_equal(pictures[f"{key}_{side}"], of(ids))


def test_finished_is_kept_and_other_options_are_made_anew(made):
  root, *_, got = made
  written = (root / "extraction" / "matches.csv").stat().st_mtime_ns
  assert go(root) == got
  assert (root / "extraction" / "matches.csv").stat().st_mtime_ns == written
  other = go(root, centring="training")
  assert other["rule"]["centring"] == "training"
  assert other["unique"] == got["other_centring"]["unique"]
  assert go(root) == got


@pytest.mark.parametrize(("members", "held_out"), [(60, 40), (40, 60)])
def test_sets_of_unequal_size_are_compared_at_equal_size(
  tmp_path, members, held_out
):
  _dataset, _split, bank = prepare(tmp_path, members=members, held_out=held_out)
  got = go(tmp_path)
  assert got["searched"] == members
  assert got["unique"] >= 5
  assert got["held_out"]["searched"] == got["control"]["searched"] == 40
  assert got["held_out"]["real_searched"] == held_out
  assert got["control"]["members"] <= got["unique"]
  if members < held_out:
    assert got["control"]["members"] == got["unique"]
  counts = got["histogram"]
  assert sum(counts["held_out"]) == sum(counts["members"]) == len(bank)


@pytest.mark.parametrize("mirror", [False, True])
def test_mirrored_copies_are_found_with_the_option_alone(tmp_path, mirror):
  prepare(tmp_path, members=60, held_out=40, mirror=mirror)
  got = go(tmp_path)
  found = {copies: count for copies, (count, _) in got["planted"].items()}
  assert (found["20"], found["5"]) == ((2, 3) if mirror else (0, 0))
  assert (got["control"]["members"] > 0) == mirror  # searched alike


def test_neighbours_are_cut_to_the_smallest_set(tmp_path):
  prepare(tmp_path, held_out=20, members=20, k=61)
  rule = go(tmp_path)["rule"]
  assert (rule["neighbours"], rule["neighbours_asked"]) == (19, 30)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    ({"neighbours": 50}, "kept 31 neighbours.* needs 50.*distances.k"),
    ({"alpha": -1.0}, "alpha = -1.0"),
    ({"centring": "test"}, "centring = 'test'"),
    ({"gallery": -1}, "gallery = -1"),
  ],
)
def test_refused(made, change, message):
  with pytest.raises(ValueError, match=message):
    go(made[0], **change)


def test_no_distances_yet(tmp_path):
  with pytest.raises(FileNotFoundError, match="run diffmem-distances"):
    go(tmp_path)


def test_names_and_captions_are_quoted():
  dataset = diffmem.data.Dataset(
    images=np.zeros((2, 1, 1, 1), np.uint8),
    ids=np.array([4, 9]),
    captions=('a "b", c', "d\ne"),
    names=("x.png", "y,z.png"),
  )
  one = np.array([1])
  found = run.Found(one, one, one / 8, one / 2, one)
  text = run.table_csv(found, dataset.ids, np.array([1, 7]), dataset)
  row = next(csv.DictReader(text.splitlines(keepends=True)))
  assert row == {
    "training_id": "9",
    "generation_id": "1",
    "distance": "0.12500000",
    "ratio": "0.50000000",
    "copies": "7",
    "hits": "1",
    "label": "",
    "name": "y,z.png",
    "caption": "d\ne",
  }
