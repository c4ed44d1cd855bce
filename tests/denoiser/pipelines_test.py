# SPDX-License-Identifier: Apache-2.0
"""Networks of diffusers pipelines as denoisers."""

import numpy as np
import pytest

from diffmem import keys, membership
from diffmem.sample import chain

pytest.importorskip("diffusers", reason="the extra [torch] is not installed")
pytestmark = pytest.mark.torch

import diffusers  # noqa: E402
import torch  # noqa: E402

from diffmem.denoiser import pipelines  # noqa: E402
from tests import tiny_pipelines  # noqa: E402


def noisy(shape, n=3, seed=0):
  x = np.random.default_rng(seed).standard_normal((n, *shape))
  return x.astype(np.float32), np.arange(n) * 7


@pytest.fixture(scope="module")
def ddpm():
  pipe = tiny_pipelines.unconditional()
  return pipe, pipelines.load(pipe)


@pytest.fixture(scope="module")
def sd(tmp_path_factory):
  pipe = tiny_pipelines.stable_diffusion(tmp_path_factory.mktemp("sd"))
  return pipe, pipelines.load(pipe)


def test_eps_is_the_network_s(ddpm):
  pipe, denoiser = ddpm
  x, t = noisy((8, 8, 1))
  with torch.no_grad():
    want = pipe.unet(
      torch.from_numpy(x.transpose(0, 3, 1, 2).copy()), torch.from_numpy(t)
    ).sample.numpy()
  got, fraction = denoiser.predict(None, x, t)
  assert fraction is None
  np.testing.assert_allclose(got, want.transpose(0, 2, 3, 1), atol=1e-5)
  assert denoiser.shape == (8, 8, 1)
  assert not denoiser.traceable
  assert denoiser.encode is None


def test_the_schedule_is_the_scheduler_s(ddpm, sd):
  for pipe, denoiser in (ddpm, sd):
    np.testing.assert_allclose(
      denoiser.schedule.alpha_bar, pipe.scheduler.alphas_cumprod, rtol=1e-4
    )


def test_calls_are_cut_into_batches(ddpm):
  pipe, denoiser = ddpm
  x, t = noisy((8, 8, 1), n=5)
  t %= 20
  small = pipelines.load(pipe, batch=2)
  np.testing.assert_allclose(
    small.eps(x, t, None), denoiser.eps(x, t, None), atol=1e-5
  )


@pytest.mark.parametrize("kind", ["sample", "v_prediction"])
def test_other_predictions_become_eps(ddpm, kind):
  """By the scheduler's own conversion: its x0 and our eps say the same."""
  pipe, _ = ddpm
  scheduler = diffusers.DDIMScheduler(
    num_train_timesteps=20, prediction_type=kind, clip_sample=False
  )
  denoiser = pipelines.load(diffusers.DDIMPipeline(pipe.unet, scheduler))
  x, _ = noisy((8, 8, 1))
  eps = np.asarray(denoiser.eps(x, np.full(3, 12), None))
  scheduler.set_timesteps(20)
  with torch.no_grad():
    noise = torch.from_numpy(x.transpose(0, 3, 1, 2).copy())
    output = pipe.unet(noise, 12).sample
    x0 = scheduler.step(output, 12, noise).pred_original_sample.numpy()
  ab = denoiser.schedule.alpha_bar[12]
  want = (x - np.sqrt(ab) * x0.transpose(0, 2, 3, 1)) / np.sqrt(1 - ab)
  np.testing.assert_allclose(eps, want, atol=2e-5)


def test_ddim_agrees_with_diffusers():
  """The same noise through our chain and through their pipeline."""
  scheduler = diffusers.DDIMScheduler(
    num_train_timesteps=20, timestep_spacing="linspace", clip_sample=False
  )
  pipe = tiny_pipelines.unconditional(scheduler)
  denoiser = pipelines.load(pipe)
  run = chain.chain(
    denoiser, stepper="ddim", steps=20, eta=0.0, guidance=1.0, clip=False
  )
  key = keys.root(0)
  ours = run(None, np.arange(2, dtype=np.int32), key)
  start = chain.start_noise(keys.per_id(key, np.arange(2)), (8, 8, 1))
  start = torch.from_numpy(np.array(start).transpose(0, 3, 1, 2).copy())
  scheduler.set_timesteps(20)
  x = start
  with torch.no_grad():
    for t in scheduler.timesteps:
      x = scheduler.step(pipe.unet(x, t).sample, t, x).prev_sample
  np.testing.assert_allclose(ours, x.numpy().transpose(0, 2, 3, 1), atol=2e-3)


def test_attacks_run_on_a_pipeline(ddpm):
  _, denoiser = ddpm
  images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 1), np.uint8)
  scores = membership.score("loss", denoiser, images, t=10, draws=2)
  assert scores.shape == (6,)
  assert np.isfinite(scores).all()
  assert len(np.unique(scores)) == 6


def test_prompts_of_a_pipeline_are_scored(sd):
  pipe, denoiser = sd
  cond = pipelines.embed(pipe, ["ab", "zz top", "q"])
  few = {
    "magnitude": dict(steps=4, followed=2, draws=1),
    "confidence": dict(draws=2),
    "edges": dict(draws=2, side=16),
  }
  assert set(few) == set(membership.DETECTORS)
  for name, options in few.items():
    found = membership.prompt_score(name, denoiser, cond, **options)
    alone = membership.prompt_score(name, denoiser, cond[1:2], **options)
    assert found.shape == (3,)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(alone[0], found[1], rtol=1e-3)
    none = np.broadcast_to(denoiser.null_cond, cond.shape)
    if name == "magnitude":
      assert (found > 0).all()
      assert (
        membership.prompt_score(name, denoiser, none, **options) == 0
      ).all()


def test_clid_runs_on_a_pipeline(sd):
  pipe, denoiser = sd
  images = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 3), np.uint8)
  cond = pipelines.embed(pipe, ["ab", "zz", "q", "a", "b", "c"])
  known = (images[:4], np.array([1, 1, 0, 0]), cond[:4])
  found = membership.score(
    "clid", denoiser, images, t=50, cond=cond, calibration=known, draws=1
  )
  assert found.shape == (6,)
  assert np.isfinite(found).all()


def test_latents_go_there_and_back_as_in_diffusers(sd):
  pipe, denoiser = sd
  assert denoiser.shape == (4, 4, 4)
  images = np.random.default_rng(0).uniform(-1, 1, (2, 8, 8, 3))
  images = images.astype(np.float32)
  z = denoiser.encode(images)
  assert z.shape == (2, 4, 4, 4)
  with torch.no_grad():
    x = torch.from_numpy(images.transpose(0, 3, 1, 2).copy())
    want = pipe.vae.encode(x).latent_dist.mean * pipe.vae.config.scaling_factor
    image = pipe.vae.decode(want / pipe.vae.config.scaling_factor).sample
  np.testing.assert_allclose(z, want.numpy().transpose(0, 2, 3, 1), atol=1e-5)
  np.testing.assert_allclose(
    denoiser.decode(z), image.numpy().transpose(0, 2, 3, 1), atol=1e-5
  )


def test_prompts_are_conditions(sd):
  pipe, denoiser = sd
  cond = pipelines.embed(pipe, ["ab", ""])
  assert cond.shape == (2, tiny_pipelines.TOKENS, 16)
  np.testing.assert_array_equal(cond[1], denoiser.null_cond)
  x, t = noisy((4, 4, 4), n=2)
  with torch.no_grad():
    want = pipe.unet(
      torch.from_numpy(x.transpose(0, 3, 1, 2).copy()),
      torch.from_numpy(t),
      encoder_hidden_states=torch.from_numpy(cond),
    ).sample.numpy()
  got = np.asarray(denoiser.eps(x, t, cond))
  np.testing.assert_allclose(got, want.transpose(0, 2, 3, 1), atol=1e-5)
  null = np.asarray(denoiser.eps(x, t, None))
  np.testing.assert_allclose(null[1], got[1], atol=1e-5)
  assert np.abs(null[0] - got[0]).max() > 1e-4


def test_guidance_samples_images_from_prompts(sd):
  pipe, denoiser = sd
  run = chain.chain(
    denoiser, stepper="ddim", steps=2, eta=0.0, guidance=3.0, clip=False
  )
  cond = pipelines.embed(pipe, ["ab", "cd"])
  x = run(None, np.arange(2, dtype=np.int32), keys.root(0), cond)
  assert x.shape == (2, 8, 8, 3)
  assert np.isfinite(np.asarray(x)).all()


@pytest.mark.parametrize(
  "name", ["loss", "secmi", "pia", "pian", "sima", "pfami", "rediffuse"]
)
def test_attacks_run_on_latents(sd, name):
  _, denoiser = sd
  images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
  few = dict(loss=dict(draws=2), rediffuse=dict(interval=20, repeats=1))
  scores = membership.score(
    name, denoiser, images, t=40, progress=False, **few.get(name, {})
  )
  assert np.isfinite(scores).all()
  assert len(np.unique(scores)) == 3


def test_class_labels_are_conditions():
  pipe = tiny_pipelines.unconditional(num_class_embeds=3)
  denoiser = pipelines.load(pipe)
  assert denoiser.num_classes == 3
  x, t = noisy((8, 8, 1))
  each = [np.asarray(denoiser.eps(x, t, np.full(3, c))) for c in (0, 2)]
  assert np.abs(each[0] - each[1]).max() > 1e-4


def test_a_saved_pipeline_is_loaded_from_its_folder(ddpm, tmp_path):
  pipe, denoiser = ddpm
  pipe.save_pretrained(tmp_path)
  again = pipelines.load(tmp_path, device="cpu")
  x, t = noisy((8, 8, 1))
  np.testing.assert_allclose(
    again.eps(x, t, None), denoiser.eps(x, t, None), atol=1e-6
  )
  half = pipelines.load(tmp_path, device="cpu", dtype="bfloat16")
  error = np.abs(np.asarray(half.eps(x, t, None)) - denoiser.eps(x, t, None))
  assert 1e-5 < error.max() < 0.1


def test_size_is_that_of_images(sd):
  pipe, _ = sd
  assert pipelines.load(pipe, size=16).shape == (8, 8, 4)
  assert pipelines.load(pipe, size=(16, 8)).shape == (8, 4, 4)


def test_what_is_no_denoiser_is_refused(ddpm):
  pipe, _ = ddpm
  flow = diffusers.FlowMatchEulerDiscreteScheduler()
  with pytest.raises(ValueError, match="has no betas: a denoiser needs"):
    pipelines.load(diffusers.DDPMPipeline(pipe.unet, flow))
  with pytest.raises(ValueError, match="object has no U-Net"):
    pipelines.load(object())
  unet = diffusers.UNet2DModel(
    sample_size=8, in_channels=1, out_channels=1, block_out_channels=(8,),
    layers_per_block=1, norm_num_groups=4, down_block_types=("DownBlock2D",),
    up_block_types=("UpBlock2D",), class_embed_type="timestep",
  )  # fmt: skip
  richer = diffusers.DDPMPipeline(unet, pipe.scheduler)
  with pytest.raises(ValueError, match="takes further conditions"):
    pipelines.load(richer)
