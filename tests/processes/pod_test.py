# SPDX-License-Identifier: Apache-2.0
"""Two real processes: a bank, a sum over all devices, wrong set-ups."""

import jax
import numpy as np
import pytest

from diffmem import keys, store, workdir
from diffmem.sample import bank
from tests import pods

PROGRAM = '''"""A bank, and a sum over all devices."""
import jax
import numpy as np

from diffmem import keys, mesh, processes, store, workdir
from diffmem.bin import program
from diffmem.sample import bank


def generate(params, ids, key):
  draw = jax.vmap(lambda k: jax.random.uniform(k, (2, 3, 1), minval=-1.0))
  return draw(keys.per_id(key, ids))


def total(folder, key):
  whole = mesh.data_mesh()
  numbers = mesh.shard(np.arange(8.0), whole)
  two = mesh.replicate(np.float32(2), whole)
  found = jax.jit(lambda x, y: (x * y).sum())(numbers, two)
  found = float(mesh.local(found))
  workdir.write_json(workdir.path(folder) / "sum.json", [whole.size, found])


def main(config, folder):
  processes.together(total, folder, "sum")
  with workdir.stage(folder, "sample", config={}) as stage:
    images = store.create(
      stage.folder / "images", shape=(23, 2, 3, 1), dtype=np.uint8, chunk=3
    )
    key = keys.stream(keys.root(0), "sample")
    bank.fill(images, generate, {}, key)
  print("devices", jax.device_count())


if __name__ == "__main__":
  program.start("fake", main)
'''

FAILS = """  if processes.leads():
    raise ValueError("no sum today")
"""


# Of the parent and of the child, which runs the file as well.
IMPATIENT = """
from diffmem.processes import child

child.CONNECT = 5


def"""


def _generate(params, ids, key):
  draw = jax.vmap(lambda k: jax.random.uniform(k, (2, 3, 1), minval=-1.0))
  return draw(keys.per_id(key, ids))


@pytest.fixture(autouse=True)
def _end():
  yield
  pods.end_all()


@pytest.fixture
def start(tmp_path):
  """Starts the program in n processes, with flags of single ones."""
  file = tmp_path / "fake.py"
  file.write_text(PROGRAM)

  def call(n, flags=None, root="run"):
    args = [str(file), "--config=digits.py:debug", f"--workdir={root}"]
    return pods.Pod(args, n, cwd=tmp_path, flags=flags)

  return call


def test_two_processes_work_as_one(start, tmp_path):
  pod = start(2)
  pod.finish()
  assert workdir.read_json(tmp_path / "run" / "sum.json") == [4, 56.0]
  alone = store.create(
    tmp_path / "alone", shape=(23, 2, 3, 1), dtype=np.uint8, chunk=3
  )
  key = keys.stream(keys.root(0), "sample")
  bank.fill(alone, _generate, {}, key, progress=False)
  made = store.open(tmp_path / "run" / "sample" / "images")
  assert (made[:] == alone[:]).all()
  meta = workdir.require(tmp_path / "run", "sample")
  assert meta["hardware"]["processes"] == 2
  for i in (0, 1):
    # Behind the sum each works for itself.
    assert "devices 2" in pod.said(i)
    assert "23/23 images" in pod.said(i)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (
      {1: ["--config.train.lr=0.5"]},
      "process 0 has config.train.lr = 0.002, process 1 has 0.5",
    ),
    pytest.param(
      {1: ["--processes=3"]},
      "process 0 was started with --processes=2, process 1 with --processes=3",
      marks=pytest.mark.slow,
    ),
  ],
)
def test_a_wrong_set_up_ends_both(start, flags, message):
  pod = start(2, flags)
  assert pod.wait() == [1, 1]
  for i in (0, 1):
    assert message in pod.said(i)
    assert len(pod.said(i).strip().splitlines()) == 1


@pytest.mark.slow
def test_a_coordinator_that_nobody_reaches_ends_both(start, tmp_path):
  program = tmp_path / "fake.py"
  program.write_text(PROGRAM.replace("\n\n\ndef", IMPATIENT, 1))
  nowhere = ["--coordinator=nowhere.invalid:45123"]
  pod = start(2, {0: nowhere, 1: nowhere})
  assert 0 not in pod.wait()
  for i in (0, 1):
    assert "nowhere.invalid:45123" in pod.said(i)


@pytest.mark.slow
def test_an_error_in_a_child_is_the_error_of_its_process(start, tmp_path):
  program = tmp_path / "fake.py"
  program.write_text(PROGRAM.replace("  whole =", FAILS + "  whole =", 1))
  pod = start(2)
  assert pod.wait() == [1, 1]
  assert pod.said(0).strip().endswith("diffmem-fake: error: no sum today")
  assert "process 0 stopped: no sum today" in pod.said(1)


@pytest.mark.parametrize(
  ("flags", "message"),
  [
    (["--processes=2"], "--process is missing: give each of 2 processes"),
    (["--processes=2", "--process=2"], "--process=2 must lie between 0 and 1"),
    (["--process=1"], "there are --processes=1"),
    (["--processes=0"], "--processes=0"),
    (
      ["--processes=2", "--process=0", "--coordinator=node0"],
      "--coordinator=node0 must be HOST:PORT",
    ),
    (["--distributed", "--process=0"], "--distributed takes --process from"),
    (["--distributed"], "no cluster is recognised .*; give --processes"),
  ],
)
def test_flags_that_cannot_be(start, flags, message):
  pod = start(1, {0: flags})
  assert pod.wait() == [1]
  with pytest.raises(ValueError, match=message):
    raise ValueError(pod.said(0))


def test_help_names_the_flags(start):
  pod = start(1, {0: ["--help"]})
  pod.wait()
  for name in ("processes", "process", "coordinator", "distributed"):
    assert f"--{name}" in pod.said(0).replace("--[no]", "--")
