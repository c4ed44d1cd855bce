# SPDX-License-Identifier: Apache-2.0
"""SIDE's steps on an oracle: a finite set of images in four loose groups."""

import copy
import shutil

import jax
import numpy as np
import pytest

from diffmem import arrays, store, workdir
from diffmem.denoiser import finite_set
from diffmem.diffusion import schedules
from diffmem.extraction.side_job import Job, Target

SHAPE = (4, 4, 1)
SECTION = dict(
  synthetic=256,
  features=dict(name="pixels", path=None),
  clusters=dict(clusters=4, restarts=2, cohesion=0.5, least=5, centre=True),
  classifier=dict(name="mlp", width=32, blocks=1, time_scale=1.0),
  training=dict(
    aside=0.1,
    steps=60,
    batch=64,
    lr=1e-2,
    warmup=10,
    decay="cosine",
    clip=1.0,
    weight_decay=0.0,
    ema=0.9,
    log_every=20,
    checkpoint_every=20,
  ),
  smoothing=0.0,
  temperature=1.0,
  lora=dict(rank=2, alpha=2.0, kinds=("dense",)),
  methods=("scratch", "distilled", "plain"),
  scales=(1.0, 3.0),
  n=64,
  sampler=dict(
    stepper="ddim", steps=20, eta=0.0, clip=True, batch=64, backend="pmap"
  ),
  gallery=2,
)


def section(**change):
  return copy.deepcopy(SECTION) | change


@pytest.fixture(scope="module")
def images():
  """uint8 images in four groups of six, and the group of each."""
  rng = np.random.default_rng(0)
  centres = rng.uniform(40, 215, (4, 1, *SHAPE))
  values = centres + 12 * rng.normal(size=(4, 6, *SHAPE))
  return values.reshape(24, *SHAPE).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def oracle(images):
  denoiser = finite_set(
    np.asarray(arrays.from_uint8(images)), schedules.linear(200)
  )
  return Target(denoiser)


@pytest.fixture(scope="module")
def job(oracle, tmp_path_factory):
  folder = workdir.path(tmp_path_factory.mktemp("side"))
  made = Job(folder, oracle, seed=0, side=section(), progress=False)
  made.run()
  return made


def nearest(images, x):
  away = (x[:, None].astype(float) - images) ** 2
  return np.argmin(away.sum((2, 3, 4)), axis=1)


def test_guidance_leads_to_the_members_of_its_cluster(job, images):
  """Each cluster is a group; its guided images are that group's members."""
  clusters = job.clusters()
  assert len(clusters) == 4
  group = nearest(images, job.synthetic) // 6
  of = [np.unique(group[clusters.labels == k]) for k in range(4)]
  assert sorted(np.concatenate(of)) == [0, 1, 2, 3]
  aims = job.aims(np.arange(64))
  wanted = np.array([of[k][0] for k in aims])
  unguided = nearest(images, job.bank("unguided")[:])
  assert np.mean(unguided // 6 == wanted) < 0.5
  for method in ("scratch", "distilled"):
    found = nearest(images, job.bank(method)[64:])  # at scale 3
    assert np.mean(found // 6 == wanted) > 0.9, method
    assert len(np.unique(found)) > 12, method


def test_a_classifier_that_knows_noise_sees_through_it(job):
  """At the noisiest t all guess; at less of it the timed ones know."""
  found = job.accuracy()
  third = 3  # of the way
  assert found["scratch"][0] > 0.95
  assert found["scratch"][third] > 0.9
  assert found["distilled"][third] > 0.9
  assert found["plain"][0] > 0.9
  assert found["scratch"][-1] < 0.7


def test_every_step_is_on_disk(job):
  for name in (
    "synthetic/images/zarr.json",
    "features/made.json",
    "clusters.npz",
    "scratch/metrics.jsonl",
    "distilled/checkpoints",
    "plain/checkpoints",
    "banks/unguided/images/zarr.json",
    "banks/scratch/images/zarr.json",
    "accuracy.json",
  ):
    assert (job.folder / name).exists(), name
  assert len(store.open(job.folder / "banks" / "scratch" / "images")) == 128


def test_going_on_makes_the_same(job, oracle, tmp_path):
  """From a folder without its last steps: equal to a bit."""
  folder = tmp_path / "side"
  shutil.copytree(job.folder, folder)
  shutil.rmtree(folder / "banks" / "scratch")
  shutil.rmtree(folder / "scratch" / "checkpoints" / "60")
  (folder / "synthetic" / "images" / "c" / "2" / "0" / "0" / "0").unlink()
  again = Job(
    workdir.path(folder), oracle, seed=0, side=section(), progress=False
  )
  again.run()
  np.testing.assert_array_equal(again.synthetic, job.synthetic)
  jax.tree.map(
    np.testing.assert_array_equal,
    again.weights("scratch"),
    job.weights("scratch"),
  )
  np.testing.assert_array_equal(
    again.bank("scratch")[:], job.bank("scratch")[:]
  )


def test_scales_start_from_the_same_noise(oracle, tmp_path, job):
  """A scale next to nothing gives the unguided bank."""
  folder = tmp_path / "side"
  shutil.copytree(job.folder, folder)
  shutil.rmtree(folder / "banks" / "scratch")
  side = section(methods=("scratch",), scales=(1e-9,))
  tiny = Job(workdir.path(folder), oracle, seed=0, side=side, progress=False)
  found = tiny.bank("scratch")[:].astype(int)
  assert np.abs(found - job.bank("unguided")[:]).max() <= 1


@pytest.mark.parametrize(
  ("change", "message"),
  [
    (dict(synthetic=3), "side.synthetic = 3 images"),
    (dict(synthetic=0), "side.synthetic = 0"),
    (dict(methods=("gan",)), "expected some of scratch"),
    (dict(scales=(0.0, 1.0)), "0, the model unguided, is always there"),
    (dict(scales=()), "expected distinct positive"),
  ],
)
def test_options_are_refused_at_once(oracle, tmp_path, change, message):
  with pytest.raises(ValueError, match=message):
    Job(
      workdir.path(tmp_path),
      oracle,
      seed=0,
      side=section(**change),
      progress=False,
    )


def test_one_class_and_no_cluster_are_refused(job, oracle, tmp_path):
  for cohesion, message in ((0.999, "none is left"), (None, "one alone")):
    folder = tmp_path / f"side{cohesion}"
    shutil.copytree(job.folder, folder)
    (folder / "clusters.npz").unlink()
    side = section()
    if cohesion is None:
      side["clusters"]["least"] = int(job.clusters().sizes.max())
    else:
      side["clusters"]["cohesion"] = cohesion
    again = Job(workdir.path(folder), oracle, seed=0, side=side, progress=False)
    with pytest.raises(ValueError, match=message):
      again.clusters()


def test_adapters_need_a_network_of_ours(job, oracle, tmp_path):
  folder = tmp_path / "side"
  shutil.copytree(job.folder, folder)
  side = section(methods=("lora",))
  other = Job(workdir.path(folder), oracle, seed=0, side=side, progress=False)
  with pytest.raises(ValueError, match="leave it out"):
    other.weights("lora")
