# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from diffmem import audit, data
from diffmem.data import captions as texts
from diffmem.sample import choosing, prompts

RNG = np.random.default_rng(5)
CHOOSE = dict(
  table=None,
  duplicated=3,
  outliers=2,
  ordinary=2,
  delta=0.05,
  neighbours=6,
  features=None,
)


def images():
  """Forty images of ten captions; two that are near, one that is far."""
  pixels = RNG.integers(100, 156, (40, 4, 4, 1)).astype(np.uint8)
  pixels[5] = pixels[4] + 1
  pixels[17] = 255
  return pixels


@pytest.fixture(scope="module")
def root(tmp_path_factory):
  root = tmp_path_factory.mktemp("run")
  captions = np.array([f"caption {i // 4}" for i in range(40)])
  np.savez(root / "a.npz", images=images(), captions=captions)
  data.prepare(
    root / "data",
    seed=0,
    source=f"npz:{root / 'a.npz'}",
    crop="none",
    resize=None,
    filter="lanczos",
    data_dir=None,
    split=dict(
      name="random",
      members=40,
      held_out=0,
      calibration=0,
      planted=((9, 1), (4, 1)),
      shadows=0,
      path=None,
    ),
  )
  return root


def run(root, seed=0, **change):
  choose = CHOOSE | change
  return choosing.run(root, seed=seed, choose=choose, progress=False)


def naive(root, neighbours=6, delta=0.05):
  """Both numbers of every image, pair by pair."""
  dataset, split = data.read(root / "data")
  x = dataset.take(split.members).reshape(40, -1).astype(np.float64) / 255
  d = np.sqrt(((x[:, None] - x[None]) ** 2).mean(axis=2))
  counts = np.where(d <= delta, split.copies[None], 0).sum(axis=1)
  nearest = np.sort(d, axis=1)[:, 1 : neighbours + 1]
  _, own = texts.distinct(dataset)
  return own, counts, nearest.mean(axis=1), split


def test_kinds_are_what_their_definitions_say(root):
  chosen = run(root)
  own, counts, outlier, split = naive(root)
  assert [c.kind for c in chosen] == [
    *["duplicated"] * 3,
    *["outliers"] * 2,
    *["ordinary"] * 2,
  ]
  assert len({c.caption for c in chosen}) == 7
  for c in chosen:
    rows = np.flatnonzero(own == int(c.caption.split()[1]))
    assert c.count == counts[rows].max()
    assert c.outlier == pytest.approx(outlier[rows].max(), rel=1e-6)
    assert c.image_ids == tuple(split.members[rows])
  most = np.array([counts[own == i].max() for i in range(10)])
  assert [c.count for c in chosen[:3]] == sorted(most)[::-1][:3]
  assert [c.count for c in chosen[:2]] == [9, 4]
  assert chosen[2].image_ids[:2] == (4, 5)  # near, not equal
  taken = [int(c.caption.split()[1]) for c in chosen[:3]]
  furthest = [outlier[own == i].max() for i in range(10) if i not in taken]
  expected = sorted(furthest)[::-1][:2]
  assert [c.outlier for c in chosen[3:5]] == pytest.approx(expected)
  assert 17 in {
    *chosen[3].image_ids,
    *(i for c in chosen[:3] for i in c.image_ids),
  }


def test_the_table_is_a_file_of_prompts(root):
  chosen = run(root)
  file = root / "choose" / "prompts_chosen.csv"
  found, repeated = prompts.read(file)
  assert (found, repeated) == (tuple(c.caption for c in chosen), 0)
  assert choosing.read(file) == chosen
  ordinary = (root / "choose" / "ordinary.txt").read_text().split()
  assert [chosen[int(i)].kind for i in ordinary] == ["ordinary"] * 2


def test_features_take_the_place_of_pixels(root, tmp_path):
  """The pixels themselves as vectors choose the same."""
  (tmp_path / "data").mkdir()
  for name in ("meta.json", "split.npz"):
    content = (root / "data" / name).read_bytes()
    (tmp_path / "data" / name).write_bytes(content)
  chosen = run(tmp_path, features=dict(name="pixels", batch=16))
  again = run(root)
  assert [(c.caption, c.kind, c.count) for c in chosen] == [
    (c.caption, c.kind, c.count) for c in again
  ]


def test_a_stopped_choice_goes_on(root, tmp_path, monkeypatch):
  (tmp_path / "data").mkdir()
  for name in ("meta.json", "split.npz"):
    content = (root / "data" / name).read_bytes()
    (tmp_path / "data" / name).write_bytes(content)
  monkeypatch.setattr(choosing, "BLOCK", 15)
  nearest, calls = choosing.distances.nearest, []

  def failing(queries, *args):
    calls.append(len(queries))
    if len(calls) == 2:
      raise KeyboardInterrupt
    return nearest(queries, *args)

  monkeypatch.setattr(choosing.distances, "nearest", failing)
  with pytest.raises(KeyboardInterrupt):
    run(tmp_path)
  assert run(tmp_path) == run(root)
  assert calls == [15, 15, 15, 10]
  assert run(tmp_path) == run(root)
  assert len(calls) == 4  # kept
  with pytest.raises(ValueError, match=r"choose\.delta = 0\.05, this run has"):
    run(tmp_path, delta=0.1)


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(duplicated=9), "asks for 13 prompts, but training images have 10"),
    (dict(outliers=-1), "choose.outliers = -1, expected 0 or more"),
    (dict(duplicated=0, outliers=0, ordinary=0), "asks for no prompt"),
    (dict(neighbours=0), "choose.neighbours = 0, expected at least 1"),
  ],
)
def test_bad_choices_are_refused(root, change, message):
  with pytest.raises(ValueError, match=message):
    run(root, **change)


def test_equals_come_in_an_order_of_the_seed():
  own, flat = np.repeat(np.arange(20), 3), np.ones(60)
  sizes = dict(duplicated=5, outliers=5, ordinary=5)
  drawn = [
    choosing.select(own, flat.astype(int), flat, sizes=sizes, seed=seed)
    for seed in (0, 0, 1)
  ]
  assert drawn[0] == drawn[1] != drawn[2]
  assert len({caption for caption, _ in drawn[0]}) == 15


def test_captions_of_somebody_s_training_images(tmp_path):
  """Copies in the training set are counted as they stand there."""
  pixels = images()[:8]
  pixels[6:] = pixels[2]
  texts = np.array(["a", "b", "c", "d", "e", "f", "c", "c"])
  np.savez(tmp_path / "a.npz", images=pixels, captions=texts)
  given = dict(
    path=str(tmp_path / "a.npz"),
    held_out=None,
    data_dir=None,
    crop="none",
    resize=None,
    filter="lanczos",
    calibration=0.5,
  )
  choose = CHOOSE | dict(duplicated=2, outliers=0, ordinary=1, delta=0.0)
  audit.choose_prompts(
    tmp_path, seed=0, choose=choose, data=given, sample={"pipeline": "x"}
  )
  chosen = choosing.read(tmp_path / "choose" / choosing.FILE)
  assert [(row.caption, row.count) for row in chosen][:1] == [("c", 3)]
  assert prompts.read("choose/prompts_chosen.csv", root=tmp_path)[0][0] == "c"
  nothing = choose | dict.fromkeys(choosing.KINDS, 0)
  audit.choose_prompts(tmp_path / "none", seed=0, choose=nothing, data=given)
  assert not (tmp_path / "none").exists()
