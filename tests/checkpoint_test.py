# SPDX-License-Identifier: Apache-2.0
"""Checkpoints: named parts, whole or not at all, resharded on restore."""

import gc
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffmem import checkpoint, mesh

WHOLE = mesh.replicated(mesh.data_mesh())


def _state(value):
  state = {"w": jnp.full((8, 4), value), "step": jnp.asarray(int(value))}
  return jax.device_put(state, WHOLE)


def test_parts_come_back_alone_and_resharded(tmp_path):
  with checkpoint.Checkpointer(tmp_path) as kept:
    assert kept.latest() is None
    kept.save(3, {"ema": _state(1.0), "state": _state(2.0)}, meta={"lr": 0.1})
    kept.wait()
    assert kept.latest() == 3
    rows = mesh.sharded(mesh.data_mesh())
    shapes = checkpoint.abstract({"w": _state(0.0)["w"]}, rows)
    shapes["step"] = checkpoint.abstract(_state(0.0)["step"], WHOLE)
    parts = kept.restore({"state": shapes}, 3)
  assert set(parts) == {"state"}
  assert (np.asarray(parts["state"]["w"]) == 2.0).all()
  assert parts["state"]["w"].sharding == rows
  assert int(parts["state"]["step"]) == 2


def test_what_is_saved_is_the_state_of_that_moment(tmp_path):
  bump = jax.jit(lambda s: jax.tree.map(lambda x: x + 1, s), donate_argnums=0)
  state = _state(0.0)
  with checkpoint.Checkpointer(tmp_path) as kept:
    for step in (1, 2, 3):
      state = bump(state)
      kept.save(step, {"state": state}, meta={})
      for _ in range(5):
        state = bump(state)  # the buffers of the saved state are reused
    kept.wait()
    parts = kept.restore(checkpoint.abstract({"state": state}, WHOLE), 3)
  assert np.unique(np.asarray(parts["state"]["w"])).tolist() == [13.0]
  steps = sorted(p.name for p in tmp_path.iterdir() if p.name.isdigit())
  assert steps == ["2", "3"]  # the latest two


def test_a_half_written_checkpoint_does_not_count(tmp_path):
  with checkpoint.Checkpointer(tmp_path) as kept:
    kept.save(1, {"state": _state(1.0)}, meta={})
    kept.wait()
  half = tmp_path / "2.orbax-checkpoint-tmp"
  half.mkdir()
  (half / "d").write_bytes(b"x")
  with checkpoint.Checkpointer(tmp_path) as kept:
    assert kept.latest() == 1


# A read that fails leaves orbax's coroutine unfinished, which pytest reports
# when it is collected: that must be here, not in some later test.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_other_shapes_are_refused(tmp_path):
  with checkpoint.Checkpointer(tmp_path) as kept:
    kept.save(1, {"state": _state(1.0)}, meta={})
    kept.wait()
    other = {"w": jnp.zeros((8, 5)), "step": jnp.asarray(0)}
    with pytest.raises(ValueError, match=r"/1 cannot be read .* fall back"):
      kept.restore(checkpoint.abstract({"state": other}, WHOLE), 1)
  time.sleep(0.25)  # a thread of orbax may hold it a little longer
  gc.collect()


def test_a_relative_folder_will_do(tmp_path, monkeypatch):
  monkeypatch.chdir(tmp_path)
  with checkpoint.Checkpointer("runs/checkpoints") as kept:
    kept.save(1, {"state": _state(1.0)}, meta={})
    kept.wait()
    assert kept.latest() == 1
  assert (tmp_path / "runs" / "checkpoints" / "1").is_dir()
