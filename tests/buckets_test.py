# SPDX-License-Identifier: Apache-2.0
"""Workdirs on a bucket: paths, rights, leases, and storage that fails."""

import itertools
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import buckets, checkpoint, mesh, store, workdir
from diffmem.data import given, sources
from tests import object_store

ROOT = "gs://bucket/run"
WHOLE = mesh.replicated(mesh.data_mesh())
ROWS = np.arange(24, dtype=np.uint8).reshape(6, 4)


def _every(k, status=503):
  """Fails each k-th request; not those of orbax's arrays, it waits seconds."""
  count = itertools.count(1)

  def fault(method, key):
    array = "ocdbt" in key or "/d/" in key
    return status if not array and next(count) % k == 0 else None

  return fault


def _only(part, status=503):
  """Fails what touches keys with this part."""
  return lambda method, key: status if part in key else None


def test_paths_read_write_list_and_delete(bucket):
  root = workdir.path(ROOT)
  assert isinstance(root / "a" / "b", buckets.Path)
  assert isinstance((root / "a").parent, buckets.Path)
  assert not root.exists()
  root.mkdir(parents=True)
  (root / "a" / "b.txt").write_text("grüße")
  (root / "a" / "c.bin").write_bytes(b"0\n\n1")
  assert (root / "a").exists()
  assert (root / "a").is_dir()
  assert not (root / "a" / "b.txt").is_dir()
  assert (root / "a" / "b.txt").read_text() == "grüße"
  with (root / "a" / "c.bin").open("rb") as f:
    assert f.read() == b"0\n\n1"
  with (root / "a" / "b.txt").open() as f:
    assert f.read() == "grüße"
  assert sorted(p.name for p in (root / "a").iterdir()) == ["b.txt", "c.bin"]
  assert [p.name for p in (root / "a").glob("*.bin")] == ["c.bin"]
  assert (root / "a" / "c.bin").stat().length == 4
  (root / "a" / "none").unlink(missing_ok=True)
  (root / "none").rmtree(missing_ok=True)
  with pytest.raises(FileNotFoundError):
    (root / "none").read_bytes()
  (root / "a" / "b.txt").unlink()
  (root / "a").rmtree()
  assert bucket.files() == {}


def test_no_listing_is_remembered(bucket):
  root = workdir.path(ROOT)
  (root / "a").write_text("x")
  assert [p.name for p in root.iterdir()] == ["a"]
  bucket.put("run/b", b"by another process", {})
  assert (root / "b").exists()
  assert sorted(p.name for p in root.iterdir()) == ["a", "b"]


@pytest.mark.parametrize(
  ("place", "message"),
  [
    ("s3://bucket/run", r"s3://.* is on no storage that works here.*gs://"),
    ("http://host/run", r"use a local path, or a bucket \(gs://"),
    ("gs://", "names no bucket: gs://BUCKET/FOLDER"),
  ],
)
def test_places_that_do_not_work(place, message):
  with pytest.raises(ValueError, match=message):
    workdir.path(place)


def test_a_missing_extra_is_named(monkeypatch):
  buckets._prepare.cache_clear()
  monkeypatch.setattr(buckets.importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ImportError, match=r"pip install \'diffmem\[gcs\]\'"):
    workdir.path(ROOT)
  buckets._prepare.cache_clear()


@pytest.mark.parametrize(
  ("root", "status", "message"),
  [
    ("gs://nonesuch/run", None, "there is no bucket 'nonesuch'"),
    (
      ROOT,
      403,
      r"gs://bucket/run.* cannot be written \(Forbidden.*the right to",
    ),
    (ROOT, 401, r"gs://bucket/run.* cannot be written \(injected, 401.*right"),
    (
      ROOT,
      503,
      r"gs://bucket/run could not be written \(injected, 503",
    ),
  ],
)
def test_a_bucket_that_cannot_be_used(bucket, root, status, message):
  bucket.fault = lambda method, key: status
  start = time.monotonic()
  with (
    pytest.raises(OSError, match=message) as raised,
    workdir.stage(root, "train", config={}),
  ):
    pass
  assert "\n" not in str(raised.value)
  assert time.monotonic() - start < 20
  assert bucket.files() == {}


@pytest.mark.parametrize(
  ("right", "message"),
  [
    (("GET", "run/"), r"gs://bucket/run cannot be read \(Forbidden"),
    (("DELETE", "run/"), r"gs://bucket/run cannot be deleted \(Forbidden"),
    (
      ("GET", "/storage/v1/b/bucket"),
      r"run cannot be described \(403 .*the ri",
    ),
  ],
)
def test_a_right_that_lacks(bucket, right, message):
  def fault(method, key):
    return 403 if method == right[0] and key.startswith(right[1]) else None

  bucket.fault = fault
  with pytest.raises(OSError, match=message):
    buckets.check(workdir.path(ROOT))


def test_a_stage_on_a_bucket(bucket):
  with workdir.stage(ROOT, "train", config={"lr": 1}) as stage:
    stage.record("weights", "abc")
    with (
      pytest.raises(OSError, match="run/train is in use by process"),
      workdir.stage(ROOT, "train", config={"lr": 1}),
    ):
      pass
  assert workdir.require(ROOT, "train")["weights"] == "abc"
  assert sorted(bucket.files()) == ["run/train/meta.json"]
  with workdir.stage(ROOT, "train", config={"lr": 1}) as stage:
    assert stage.finished
  with (
    pytest.raises(ValueError, match="gs://bucket/run/train was made with lr"),
    workdir.stage(ROOT, "train", config={"lr": 2}),
  ):
    pass
  bucket.put("run/sample/.lock", b'{"owner": "a", "since": "b"}', {})
  with workdir.stage(ROOT, "sample", config={}) as stage:
    assert not stage.finished  # a dead run's lease


def test_arrays_that_are_audited_are_kept_in_the_bucket(bucket):
  images = np.arange(2 * 16, dtype=np.uint8).reshape(2, 4, 4)
  kept = given.keep(f"{ROOT}/data", "training", images)
  assert kept == f"npz:{ROOT}/data/training.npz"
  read = sources.load(kept)
  assert (read.images[..., 0] == images).all()
  assert given.keep(f"{ROOT}/data", "training", images) == kept
  with pytest.raises(ValueError, match="holds other images than training"):
    given.keep(f"{ROOT}/data", "training", images + 1)


@pytest.mark.parametrize("status", [429, 503, object_store.DROP])
def test_requests_that_fail_now_and_then(bucket, status):
  bucket.fault = _every(4, status)
  with workdir.stage(ROOT, "sample", config={}) as stage:
    made = store.create(
      stage.folder / "images", shape=(6, 4), dtype="uint8", chunk=2
    )
    for number in range(3):
      made.write(number, ROWS[made.rows(number)])
    assert (store.open(stage.folder / "images")[:] == ROWS).all()
    assert made.written() == [0, 1, 2]
  assert workdir.require(ROOT, "sample")["status"] == "finished"


def test_checkpoints_when_requests_fail_now_and_then(bucket):
  bucket.fault = _every(9)
  state = jax.device_put({"w": jnp.ones((8, 4))}, WHOLE)
  with checkpoint.Checkpointer(f"{ROOT}/train/checkpoints") as kept:
    kept.save(1, {"state": state}, meta={})
    kept.wait()
    assert kept.latest() == 1
    parts = kept.restore({"state": checkpoint.abstract(state, WHOLE)}, 1)
  assert (np.asarray(parts["state"]["w"]) == 1).all()


def test_a_store_that_fails_for_good_keeps_whole_chunks(bucket):
  made = store.create(f"{ROOT}/images", shape=(6, 4), dtype="uint8", chunk=2)
  made.write(0, ROWS[:2])
  bucket.fault = _only("/c/1/")
  with pytest.raises(OSError, match=r"rows 2\.\.3 to gs://bucket/run/images"):
    made.write(1, ROWS[2:4])
  bucket.fault = lambda method, key: None
  again = store.create(f"{ROOT}/images", shape=(6, 4), dtype="uint8", chunk=2)
  assert again.written() == [0]
  for number in (1, 2):
    again.write(number, ROWS[again.rows(number)])
  assert (store.open(f"{ROOT}/images")[:] == ROWS).all()


def test_a_file_that_fails_for_good_is_named(bucket):
  file = workdir.path(ROOT) / "train" / "meta.json"
  workdir.write_json(file, {"a": 1})
  bucket.fault = _only("meta.json")
  with pytest.raises(OSError, match=r"meta\.json could not be written 6 times"):
    workdir.write_json(file, {"a": 2})
  with pytest.raises(
    OSError, match=r"meta\.json could not be looked up 6 times"
  ):
    file.exists()  # never taken for absent
  bucket.fault = lambda method, key: None
  assert workdir.read_json(file) == {"a": 1}


def test_a_checkpoint_without_its_last_object_does_not_count(bucket):
  state = jax.device_put({"w": jnp.ones((8, 4))}, WHOLE)
  folder = f"{ROOT}/train/checkpoints"
  with checkpoint.Checkpointer(folder) as kept:
    for step in (1, 2):
      kept.save(step, {"state": state}, meta={})
    kept.wait()
  del bucket.objects["run/train/checkpoints/2/commit_success.txt"]
  with checkpoint.Checkpointer(folder) as kept:
    assert kept.latest() == 1
    assert kept.steps() == [1]
    kept.save(2, {"state": state}, meta={})
    kept.wait()
    assert kept.steps() == [1, 2]


def test_a_save_that_failed_is_made_up_for(bucket, caplog):
  state = jax.device_put({"w": jnp.ones((8, 4))}, WHOLE)
  folder = f"{ROOT}/train/checkpoints"
  with checkpoint.Checkpointer(folder) as kept:
    bucket.fault = _only("checkpoints/1/commit_success")
    kept.save(1, {"state": state}, meta={})
    kept.save(2, {"state": state}, meta={})  # 1 is let go
    bucket.fault = _every(20)
    kept.wait()
    assert kept.latest() == 2
    bucket.fault = _only("checkpoints/3/commit_success", 403)
    kept.save(3, {"state": state}, meta={})
    with pytest.raises(OSError, match=r"checkpoints/3 cannot be written"):
      kept.wait()
    bucket.fault = lambda method, key: None
  with checkpoint.Checkpointer(folder, clean=False) as kept:
    assert kept.latest() == 2
  assert "that of step 2 is saved instead" in caplog.text
