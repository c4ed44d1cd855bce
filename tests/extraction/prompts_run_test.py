# SPDX-License-Identifier: Apache-2.0
"""The stage on banks of known answers: what is found, kept and refused."""

import csv
import json

import jax
import numpy as np
import pytest

import diffmem.data
from diffmem import arrays, distances, keys, store, workdir
from diffmem.data import sources
from diffmem.denoiser import oracles
from diffmem.diffusion import schedules
from diffmem.extraction import (
  prompts_bank,
  prompts_job,
  prompts_pieces,
  prompts_run,
  prompts_tables,
)
from diffmem.sample import bank as banks
from diffmem.sample import chain

CONFIG = dict(
  minimum=10,
  patch=None,
  edge=None,
  edge_rate=0.001,
  flag_rate=0.001,
  unsuspected=None,
  controls=20,
  flat=0.02,
  limit=4096,
  budget=100_000,
  delta=0.05,
  duplicates_delta=0.05,
  gallery=5,
)
PROMPTS, EACH = 30, 16
MEMORIZED = 6  # the first prompts
DIGITS = sources.load("digits").images


def write_bank(root, images, ids, texts, chunk=64):
  """A finished sample stage."""
  bank = store.create(
    root / "sample" / "images", shape=images.shape, dtype="uint8", chunk=chunk
  )
  for number in range(bank.chunks):
    bank.write(number, images[bank.rows(number)])
  banks.write_beside(root / "sample", prompts=texts, prompt_ids=ids)
  meta = {"status": "finished", "config": {"of": str(chunk)}, "inputs": {}}
  workdir.write_json(root / "sample" / "meta.json", meta)


def go(root, **change):
  prompts_run.run(root, seed=0, prompts=CONFIG | change, progress=False)
  return workdir.read_json(root / "prompts" / "results.json")


def table(root, name="ranking"):
  file = root / "prompts" / f"{name}.csv"
  with open(file, newline="", encoding="utf-8") as lines:
    return list(csv.DictReader(lines))


def prepare(root):
  return diffmem.data.prepare(
    root / "data",
    seed=0,
    source="digits",
    crop="none",
    resize=None,
    filter="lanczos",
    data_dir=None,
    split={
      "members": 300,
      "held_out": 300,
      "calibration": 100,
      "planted": ((20, 2), (5, 4)),
    },
  )


def sampled(denoiser, n, seed=0):
  """Images of a denoiser, by DDIM."""
  make = chain.chain(
    denoiser, stepper="ddim", steps=12, eta=0.0, guidance=1.0, clip=False
  )
  made = jax.jit(make)(denoiser.params, np.arange(n), keys.root(seed))
  return np.asarray(arrays.to_uint8(made))


def diverse(rng, prompts, each, used):
  """Images of no training set, another for each generation."""
  rest = np.setdiff1d(np.arange(len(DIGITS)), used)
  return DIGITS[rng.permutation(rest)[: prompts * each]]


@pytest.fixture(scope="module")
def made(tmp_path_factory):
  """Six prompts of which the oracle knows one image each, 24 others."""
  root = tmp_path_factory.mktemp("run")
  dataset, split = prepare(root)
  planted = split.members[split.copies > 1]
  assert len(planted) == MEMORIZED
  known = arrays.from_uint8(dataset.take(planted))
  schedule = schedules.linear(100)
  parts = [
    sampled(oracles.finite_set(known[i : i + 1], schedule), EACH, i)
    for i in range(MEMORIZED)
  ]
  rng = np.random.default_rng(0)
  used = np.concatenate([split.pool, split.calibration])
  parts.append(diverse(rng, PROMPTS - MEMORIZED, EACH, used))
  images = np.concatenate(parts)
  few = diverse(rng, 1, 3, used)
  ids = np.repeat(np.arange(PROMPTS), EACH)
  images = np.concatenate([images, few, few])
  ids = np.concatenate([ids, np.full(3, PROMPTS), np.full(3, -1)])
  order = rng.permutation(len(ids))  # prompts lie scattered
  texts = [f"a digit, kind {i}" for i in range(PROMPTS + 1)]
  write_bank(root, images[order], ids[order], texts)
  return root, dataset, split, planted, go(root)


def test_the_memorized_prompts_are_all_that_is_found(made):
  root, _, split, planted, got = made
  assert got["prompts"] == PROMPTS + 1
  assert got["generated"] == PROMPTS * EACH + 6
  assert got["ungrouped"] == 3
  assert got["too_few"] == 1
  assert got["tested"] == PROMPTS
  assert got["per_prompt"] == [3, EACH, EACH]
  assert got["undecided"] == 0
  assert got["flagged"] == MEMORIZED
  rows = table(root)
  assert {int(row["prompt_id"]) for row in rows} == set(range(MEMORIZED))
  assert [int(row["rank"]) for row in rows] == [1, 2, 3, 4, 5, 6]
  means = [float(row["mean_distance"]) for row in rows]
  assert means == sorted(means)
  found = got["with_training"]
  assert found["precision"][0] == 1
  assert found["correct"] == found["unique"] == MEMORIZED
  assert found["curve"]["recall"][-1] == 1
  assert found["eidetic"] == {"5": 4, "20": 2}
  assert {int(row["training_id"]) for row in rows} == set(planted.tolist())
  for row in rows:
    at = np.searchsorted(split.members, int(row["training_id"]))
    assert int(row["duplicates"]) == split.copies[at]
  assert found["held_out"] == {
    "searched": 300,
    "correct": 0,
    "members_correct": MEMORIZED,
    "rate": [0, 0, pytest.approx(0.459, abs=0.001)],
  }
  assert got["control"]["flagged"] == 0
  assert got["control"]["groups"] == 20
  assert got["control"]["size"] == EACH


def test_histograms_are_of_all_pairs(made):
  got = made[4]
  within = got["histogram"]["within"]
  assert sum(within) == PROMPTS * EACH * (EACH - 1) // 2 + 3
  across = got["histogram"]["across"]
  assert sum(across) == got["edge"]["pairs"] == got["edge"]["across"]["pairs"]
  assert len(got["histogram"]["edges"]) == len(within) + 1 == len(across) + 1
  assert "NaN" not in (made[0] / "prompts" / "results.json").read_text()


def test_every_prompt_has_a_line(made):
  root, _, _, _, got = made
  rows = table(root, "prompts")
  assert list(rows[0]) == list(prompts_tables.ALL_COLUMNS)
  assert [int(row["prompt_id"]) for row in rows] == list(range(PROMPTS + 1))
  for row in rows[:PROMPTS]:
    within = float(row["tightest"]) <= got["edge"]["value"]
    assert row["flagged"] == str(int(within))
    assert row["images"] == str(EACH)
  assert rows[PROMPTS]["tightest"] == ""


def test_the_gallery_shows_what_the_ranking_says(made):
  root = made[0]
  bank = banks.open_bank(root)
  with np.load(root / "prompts" / "gallery.npz") as pictures:
    shown = dict(pictures)
  rows = table(root)[: CONFIG["gallery"]]
  for i, row in enumerate(rows):
    generation = int(row["generation_id"])
    assert shown["prompt_ids"][i] == int(row["prompt_id"])
    assert shown["generation_ids"][i] == generation
    assert (shown["medoids"][i] == bank[generation]).all()
    assert shown["training_ids"][i] == int(row["training_id"])
    near = distances.nearest(shown["medoids"][i : i + 1], shown["training"], 5)
    assert near.ids[0, 0] == i
    assert near.distances[0, 0] == pytest.approx(
      float(row["training_distance"]), abs=1e-8
    )
    others = shown["member_ids"][i]
    assert generation not in others
    assert (bank.prompt_ids[others] == int(row["prompt_id"])).all()
    assert (shown["members"][i] == bank[others]).all()
  assert len(shown["medoids"]) == len(rows)


def test_without_training_images(made, tmp_path):
  root = made[0]
  (tmp_path / "sample").symlink_to(root / "sample")
  got = go(tmp_path)
  assert got["with_training"] is None
  assert {**got, "with_training": made[4]["with_training"]} == made[4]
  row = table(tmp_path)[0]
  assert row["training_id"] == row["correct"] == row["duplicates"] == ""
  with np.load(tmp_path / "prompts" / "gallery.npz") as pictures:
    assert "training" not in pictures


def test_recall_counts_what_the_distances_stage_saw(made, tmp_path):
  root, dataset, split, _, _ = made
  for name in ("sample", "data"):
    (tmp_path / name).symlink_to(root / name)
  meta = workdir.require(root, "sample")
  made_of = banks.digest(meta)
  folder = tmp_path / "distances" / "generations_to_members"
  bank = banks.open_bank(root)
  found = distances.nearest(np.asarray(bank), dataset.take(split.members), 2)
  near = store.create(
    folder / "squared", shape=found.squared.shape, dtype="int64", chunk=100
  )
  # A generation of a prompt that is not flagged is a copy, too.
  squared = found.squared.copy()
  squared[~np.isin(bank.prompt_ids, np.arange(MEMORIZED))] = 10**6
  squared[np.flatnonzero(bank.prompt_ids == PROMPTS - 1)[0], 0] = 1
  squared[np.flatnonzero(bank.prompt_ids == -1)[0], 0] = 1
  squared[np.flatnonzero(bank.prompt_ids == PROMPTS)[0], 0] = 1  # too few
  for number in range(near.chunks):
    near.write(number, squared[near.rows(number)])
  inputs = {"bank": made_of}
  status = {"status": "finished", "config": {}, "inputs": inputs}
  workdir.write_json(tmp_path / "distances" / "meta.json", status)
  got = go(tmp_path)["with_training"]
  assert got["extractable"] == MEMORIZED + 1
  assert got["curve"]["recall"][-1] == MEMORIZED / (MEMORIZED + 1)
  inputs["bank"] = "another"
  workdir.write_json(tmp_path / "distances" / "meta.json", status)
  assert go(tmp_path, gallery=1)["with_training"]["extractable"] is None


def test_nothing_is_found_where_nothing_is_memorized(tmp_path):
  """Images of a Gaussian fitted to digits, another noise each."""
  x = np.asarray(arrays.from_uint8(DIGITS)).reshape(len(DIGITS), -1)
  mean, cov = x.mean(axis=0), np.cov(x.T)
  denoiser = oracles.gaussian(mean.reshape(8, 8, 1), cov, schedules.linear(100))
  images = sampled(denoiser, PROMPTS * EACH)
  ids = np.repeat(np.arange(PROMPTS), EACH)
  write_bank(tmp_path, images, ids, [str(i) for i in range(PROMPTS)])
  got = go(tmp_path)
  assert got["flagged"] == 0
  assert got["clique_share"] is None
  assert table(tmp_path) == []
  with np.load(tmp_path / "prompts" / "gallery.npz") as pictures:
    assert pictures["medoids"].shape == (0, 8, 8, 1)
  prepare(tmp_path)
  again = go(tmp_path)
  assert again["with_training"]["precision"] is None
  assert again["with_training"]["curve"]["rank"] == []


def test_all_prompts_memorized(tmp_path):
  """There is no ordinary prompt: the bound across prompts decides."""
  rng = np.random.default_rng(1)
  images = np.repeat(DIGITS[rng.permutation(len(DIGITS))[:12]], 11, axis=0)
  images[images > 128] -= rng.integers(0, 9, (images > 128).sum(), np.uint8)
  ids = np.repeat(np.arange(12), 11)
  write_bank(tmp_path, images, ids, [str(i) for i in range(12)])
  got = go(tmp_path)
  assert got["flagged"] == 12
  assert got["edge"]["method"] == "across"
  assert got["clique_share"] == [1, 1, 1]


class Stop(Exception):
  pass


def test_stopped_anywhere_it_goes_on_to_the_same(made, tmp_path, monkeypatch):
  """Stopped after every file it writes, one after the other."""
  root = made[0]
  for name in ("sample", "data"):
    (tmp_path / name).symlink_to(root / name)
  monkeypatch.setattr(prompts_bank, "GROUP_PROMPTS", 7)
  write, measured = workdir.write_bytes, prompts_job.attack.measure
  calls = {"measured": 0, "stops": 0}

  def counted(*args, **kwargs):
    calls["measured"] += 1
    return measured(*args, **kwargs)

  def stopping(file, content):
    write(file, content)
    if "/prompts/" in str(file) and "meta" not in str(file):
      calls["stops"] += 1
      raise Stop

  monkeypatch.setattr(prompts_job.attack, "measure", counted)
  monkeypatch.setattr(workdir, "write_bytes", stopping)
  for _ in range(12):  # across, 5 groups, controls, 5 groups of cliques
    with pytest.raises(Stop):
      go(tmp_path)
  monkeypatch.setattr(workdir, "write_bytes", write)
  go(tmp_path)
  assert calls == {"measured": PROMPTS + 1, "stops": 12}
  for file in ("results.json", "ranking.csv", "prompts.csv"):
    calm = (root / "prompts" / file).read_text()
    assert (tmp_path / "prompts" / file).read_text() == calm
  assert workdir.require(tmp_path, "prompts")["runs"] == 13
  before = (tmp_path / "prompts" / "meta.json").read_text()
  go(tmp_path)
  assert (tmp_path / "prompts" / "meta.json").read_text() == before
  go(tmp_path, delta=0.2)  # nothing is measured again
  assert calls["measured"] == PROMPTS + 1
  go(tmp_path, minimum=5)
  assert calls["measured"] == 2 * (PROMPTS + 1)


def test_a_damaged_file_is_named(made, tmp_path):
  (tmp_path / "sample").symlink_to(made[0] / "sample")
  go(tmp_path)
  piece = next(tmp_path.glob("prompts/pairs/*/measured_*.npz"))
  piece.write_bytes(piece.read_bytes()[:-40])
  with pytest.raises(ValueError, match=r"measured_0+\.npz is damaged"):
    go(tmp_path, gallery=2)


def test_measured_and_answers_read_back(tmp_path):
  rng = np.random.default_rng(0)
  images = np.repeat(DIGITS[:1], 12, axis=0) + rng.integers(
    0, 3, (12, 8, 8, 1), dtype=np.uint8
  )
  options = dict(minimum=10, patch=None, cap=0.2, flat=0.0)
  groups = [(images, 40), (images[:4], 90), (images[:0], 120)]
  found = [
    prompts_job.attack.measure(
      x, first + np.arange(len(x)), prompt=first, over=2, **options
    )
    for x, first in groups
  ]
  prompts_pieces.write_measured(tmp_path / "m.npz", found)
  for a, b in zip(
    found, prompts_pieces.read_measured(tmp_path / "m.npz"), strict=True
  ):
    for name, value in vars(a).items():
      assert np.array_equal(value, getattr(b, name)), name
  answers = [
    prompts_job.attack.test(m, edge=0.2, minimum=10, budget=1000).answer
    for m in found
  ]
  prompts_pieces.write_answers(tmp_path / "a.npz", answers)
  for a, b in zip(
    answers, prompts_pieces.read_answers(tmp_path / "a.npz"), strict=True
  ):
    assert (a.bound, a.exact, a.work) == (b.bound, b.exact, b.work)
    assert (a.clique is None) == (b.clique is None)
    if a.clique is not None:
      assert a.clique.ids.tolist() == b.clique.ids.tolist()
      assert (a.clique.mean, a.clique.medoid) == (
        b.clique.mean,
        b.clique.medoid,
      )


def test_a_given_edge_and_unsuspected_prompts(made, tmp_path):
  root = made[0]
  (tmp_path / "sample").symlink_to(root / "sample")
  named = [f"a digit, kind {i}" for i in range(MEMORIZED, PROMPTS, 2)]
  file = tmp_path / "fine.txt"
  file.write_text("\n".join([*named[:3], "", *named[3:-1], "28"]) + "\n")
  got = go(tmp_path, edge=0.02, unsuspected=str(file))
  assert got["edge"]["method"] == "given"
  assert got["edge"]["value"] == 0.02
  assert got["edge"]["rate"] is None
  assert got["flagged"] == MEMORIZED
  check = got["control"]["unsuspected"]
  assert (check["flagged"], check["groups"]) == (0, len(named))
  calibrated = go(tmp_path, unsuspected=named, flag_rate=0.05)
  assert calibrated["edge"]["method"] == "unsuspected"
  assert calibrated["control"]["unsuspected"]["groups"] == len(named) // 2
  assert calibrated["flagged"] >= MEMORIZED


@pytest.mark.parametrize(
  ("unsuspected", "message"),
  [
    ("nowhere.txt", "nowhere.txt' is no file"),
    (["a digit, kin 7"], "did you mean 'a digit, kind"),
    (["31"], r"no id in 0\.\.30"),
    ([], "names no prompt"),
    ([PROMPTS], "has prompts.minimum = 10 images"),
  ],
)
def test_unsuspected_prompts_must_exist(made, tmp_path, unsuspected, message):
  (tmp_path / "sample").symlink_to(made[0] / "sample")
  with pytest.raises((ValueError, FileNotFoundError), match=message):
    go(tmp_path, unsuspected=unsuspected)


HOSTILE = [
  '=HYPERLINK("http://x")',
  'a, b\n"c"\r\n;d',
  "",
  "\ud800 alone",
  "<script>alert(1)</script>",
  "+1+cmd|' /C calc'!A0 \x00",
]


def test_hostile_prompts_stay_text(tmp_path):
  images = np.repeat(DIGITS[: len(HOSTILE)], 11, axis=0)
  ids = np.repeat(np.arange(len(HOSTILE)), 11)
  write_bank(tmp_path, images, ids, HOSTILE)
  assert go(tmp_path)["flagged"] == len(HOSTILE)
  rows = table(tmp_path)
  assert len(rows) == len(HOSTILE)
  for row in rows:
    expected = HOSTILE[int(row["prompt_id"])]
    kept = expected.encode("utf-8", "backslashreplace").decode()
    assert row["prompt"] == kept
    assert None not in row  # no cell has run over


def test_more_images_than_the_limit_are_counted(tmp_path):
  rng = np.random.default_rng(2)
  images = DIGITS[rng.permutation(len(DIGITS))[:60]]
  ids = np.repeat([0, 1], [45, 15])
  write_bank(tmp_path, images, ids, ["many", "some"])
  got = go(tmp_path, limit=20)
  assert got["over_limit"] == 25
  rows = table(tmp_path, "prompts")
  assert [row["over_limit"] for row in rows] == ["25", "0"]
  assert [row["images"] for row in rows] == ["20", "15"]


def test_what_cannot_be_examined_is_refused(tmp_path):
  images, ids = DIGITS[:24], np.repeat(np.arange(3), 8)
  with pytest.raises(FileNotFoundError, match="diffmem-sample"):
    go(tmp_path)
  write_bank(tmp_path, images, ids, ["a", "b", "c"])
  with pytest.raises(ValueError, match=r"3 has prompts\.minimum = 10 .* is 8"):
    go(tmp_path)
  for change, message in (
    ({"edge_rate": 0.0}, "prompts.edge_rate = 0.0"),
    ({"delta": 2.0}, "prompts.delta = 2.0"),
    ({"gallery": -1}, "prompts.gallery = -1"),
    ({"minimum": 1}, "prompts.minimum = 1"),
    ({"minimum": 4, "patch": 3}, "patches of 3 x 3 pixels do not divide"),
  ):
    with pytest.raises(ValueError, match=message):
      go(tmp_path, **change)
  (tmp_path / "sample" / "prompts.json").unlink()
  (tmp_path / "sample" / "prompt_ids.npy").unlink()
  with pytest.raises(ValueError, match="does not know the prompts"):
    go(tmp_path)


def test_one_prompt_needs_an_edge(tmp_path):
  images = np.repeat(DIGITS[:1], 12, axis=0)
  write_bank(tmp_path, images, np.zeros(12, np.int64), ["only"])
  with pytest.raises(ValueError, match=r"give prompts\.edge"):
    go(tmp_path)
  got = go(tmp_path, edge=0.1)
  assert got["flagged"] == 1
  assert got["edge"]["across"] is got["histogram"]["across"] is None
  assert got["control"]["groups"] == 0


def test_training_images_of_another_shape_are_refused(tmp_path):
  prepare(tmp_path)
  images = np.zeros((12, 16, 16, 1), np.uint8)
  write_bank(tmp_path, images, np.zeros(12, np.int64), ["a"])
  with pytest.raises(ValueError, match=r"data\.resize"):
    go(tmp_path, edge=0.1)


def test_large_pictures_are_averaged_down():
  rng = np.random.default_rng(3)
  images = rng.integers(0, 256, (2, 300, 520, 3), dtype=np.uint8)
  got = prompts_tables.reduced(images, 256)
  assert got.shape == (2, 100, 173, 3)
  np.testing.assert_allclose(
    got[1, 4, 7], images[1, 12:15, 21:24].mean(axis=(0, 1)), atol=0.51
  )
  assert prompts_tables.reduced(images, 520) is images


def test_groups_are_read_in_bounded_parts(tmp_path, monkeypatch):
  rng = np.random.default_rng(4)
  images = rng.integers(0, 256, (100, 8, 8, 1), dtype=np.uint8)
  ids = rng.integers(-1, 9, 100)
  write_bank(tmp_path, images, ids, [str(i) for i in range(9)], chunk=7)
  monkeypatch.setattr(prompts_bank, "READ_BYTES", 3 * 7 * 64)
  monkeypatch.setattr(prompts_bank, "GROUP_BYTES", 20 * 64)
  opened = store.open(tmp_path / "sample" / "images")
  sets = prompts_bank.by_prompt(ids)
  assert [p.id for p in sets] == list(range(9))
  groups = prompts_bank.groups(sets, 64, 12)
  assert [p.id for group in groups for p in group] == list(range(9))
  for group in groups:
    held = sum(min(len(p.rows), 12) for p in group)
    assert len(group) == 1 or held <= 20
  count = 0
  for group, found in prompts_bank.read_groups(opened, groups, 12):
    for prompt, own in zip(group, found, strict=True):
      assert (own == images[ids == prompt.id][:12]).all()
      count += 1
  assert count == 9
  some = rng.integers(0, 100, 40)
  assert (prompts_bank.read(opened, some) == images[some]).all()
  rows = prompts_bank.control_rows(sets, 8, 11, one=64, chunk=7, seed=0)
  assert rows.shape == (11, 8)
  assert len({tuple(row) for row in rows}) == 11
  assert all(len(set(ids[row])) == 8 and -1 not in ids[row] for row in rows)
  read = list(prompts_bank.read_controls(opened, rows))
  assert (np.stack(read) == images[rows]).all()


def test_controls_of_a_large_bank_are_fewer(monkeypatch):
  sets = [prompts_bank.Prompt(i, np.arange(64) + 64 * i) for i in range(500)]
  options = dict(one=64, chunk=16, seed=0)
  rows = prompts_bank.control_rows(sets, 20, 100, **options)
  assert len(rows) == 100
  monkeypatch.setattr(prompts_bank, "CONTROL_BYTES", 50 * 16 * 64)
  rows = prompts_bank.control_rows(sets, 20, 100, **options)
  reads = sum(len(np.unique(rows[i : i + 8] // 16)) for i in range(0, 48, 8))
  assert len(rows) == 48
  assert reads <= 1.2 * 0.1 * 500 * 64 / 16
  rows = prompts_bank.control_rows(sets, 500, 100, **options)
  assert len(rows) == 8


def test_results_are_plain_json(made):
  text = (made[0] / "prompts" / "results.json").read_text()

  def refuse(name):
    raise AssertionError(name)

  json.loads(text, parse_constant=refuse)
