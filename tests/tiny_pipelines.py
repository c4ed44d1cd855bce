# SPDX-License-Identifier: Apache-2.0
"""Diffusers pipelines of a few thousand random weights, for tests."""

import json
import string

import diffusers
import torch
import transformers
from diffusers.pipelines.stable_diffusion import safety_checker

# A torch whose threads must share cores with others is ten times slower.
torch.set_num_threads(1)

LETTERS = [*string.ascii_lowercase]
VOCABULARY = [
  *LETTERS,
  *(letter + "</w>" for letter in LETTERS),
  "<|startoftext|>",
  "<|endoftext|>",
]
TOKENS = 8  # of a prompt, its first and last mark included


def unconditional(scheduler=None, **over):
  """8x8 grey images; DDPM unless another scheduler is given."""
  torch.manual_seed(0)
  knobs = dict(
    sample_size=8,
    in_channels=1,
    out_channels=1,
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"),
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
    attention_head_dim=8,
  )
  unet = diffusers.UNet2DModel(**knobs | over).eval()
  if scheduler is None:
    scheduler = diffusers.DDPMScheduler(num_train_timesteps=20)
    return diffusers.DDPMPipeline(unet, scheduler)
  return diffusers.DDIMPipeline(unet, scheduler)


def stable_diffusion(folder, *, checker=False):
  """8x8 colour images from prompts of letters; latents are 4x4x4.

  With a checker, every image is flagged.
  """
  torch.manual_seed(1)
  unet = diffusers.UNet2DConditionModel(
    sample_size=4,
    in_channels=4,
    out_channels=4,
    block_out_channels=(8, 16),
    layers_per_block=1,
    norm_num_groups=4,
    down_block_types=("DownBlock2D", "CrossAttnDownBlock2D"),
    up_block_types=("CrossAttnUpBlock2D", "UpBlock2D"),
    cross_attention_dim=16,
    attention_head_dim=2,
  )
  vae = diffusers.AutoencoderKL(
    block_out_channels=(8, 16),
    down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
    latent_channels=4,
    norm_num_groups=4,
    sample_size=8,
  )
  parts = _safety() if checker else {}
  return diffusers.StableDiffusionPipeline(
    unet=unet,
    vae=vae,
    scheduler=diffusers.DDIMScheduler(
      num_train_timesteps=100,
      beta_schedule="scaled_linear",
      beta_start=0.00085,
      beta_end=0.012,
      clip_sample=False,
      set_alpha_to_one=False,
      steps_offset=1,
    ),
    tokenizer=tokenizer(folder),
    text_encoder=_text_encoder(),
    requires_safety_checker=checker,
    **dict(safety_checker=None, feature_extractor=None) | parts,
  )


def tokenizer(folder):
  """One token a letter, at most TOKENS of them; files go into `folder`."""
  numbers = {token: i for i, token in enumerate(VOCABULARY)}
  (folder / "vocab.json").write_text(json.dumps(numbers))
  (folder / "merges.txt").write_text("#version: 0.2\n")
  return transformers.CLIPTokenizer.from_pretrained(
    folder, model_max_length=TOKENS
  )


def _text_encoder():
  start, end = len(VOCABULARY) - 2, len(VOCABULARY) - 1
  config = transformers.CLIPTextConfig(
    vocab_size=len(VOCABULARY),
    hidden_size=16,
    intermediate_size=16,
    num_hidden_layers=1,
    num_attention_heads=2,
    max_position_embeddings=TOKENS,
    bos_token_id=start,
    eos_token_id=end,
    pad_token_id=end,
  )
  return transformers.CLIPTextModel(config).eval()


def _safety():
  config = transformers.CLIPConfig(
    vision_config=dict(
      hidden_size=8,
      intermediate_size=8,
      num_hidden_layers=1,
      num_attention_heads=1,
      image_size=8,
      patch_size=4,
    ),
    projection_dim=8,
  )
  checker = safety_checker.StableDiffusionSafetyChecker(config).eval()
  with torch.no_grad():
    checker.concept_embeds_weights.fill_(-2.0)  # every cosine is above it
  size = dict(height=8, width=8)
  processor = transformers.CLIPImageProcessor(size=size, crop_size=size)
  return dict(safety_checker=checker, feature_extractor=processor)
