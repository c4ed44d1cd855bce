# SPDX-License-Identifier: Apache-2.0
"""The network of a diffusers pipeline as a `Denoiser` (extra: torch).

  denoiser = pipelines.load("path/to/pipeline")
  scores = diffmem.membership.score("loss", denoiser, images)

The schedule is the scheduler's betas; what the network predicts (eps, x0 or
v) is read there too and converted to eps. With an auto-encoder, x is a latent

  x0 = (mode of the encoder's posterior - shift) * scale,

and a condition is the text encoder's output, [tokens features] of one prompt
(see `embed`); the null condition is that of the empty prompt. JAX cannot trace
any of it: samplers and attacks loop on the host.
"""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from diffmem.arrays import AnyArray, Float, Int
from diffmem.denoiser import pipeline_files
from diffmem.denoiser.protocol import Denoiser
from diffmem.diffusion import process
from diffmem.diffusion.schedules import Schedule

PREDICTIONS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


def load(
  source: Any,
  *,
  size: int | tuple[int, int] | None = None,
  dtype: str = "float32",
  device: str | None = None,
  batch: int = 64,
) -> Denoiser:
  """The denoiser of a pipeline with a U-Net.

  Args:
    source: a folder or hub name (see `pipeline_files`), or a pipeline that
      diffusers has loaded already, left where it is and in its dtype.
    size: height and width of images, where not those of the training.
    dtype: of the weights: "float32", "float16" or "bfloat16".
    device: a torch device; None for the first GPU, or the CPU without one.
    batch: examples in a call of the network, at most.

  Raises:
    ImportError: the extra is not installed.
    FileNotFoundError, OSError: there is no such pipeline.
    ValueError: it is not safe to load, or its network is of another kind.
  """
  pipeline_files.libraries()
  pipe = source
  if isinstance(source, str | os.PathLike):
    folder = pipeline_files.locate(source)
    pipe = pipeline_files.load(folder, dtype=dtype, device=device)
  unet, text = _unet(pipe)
  schedule, prediction = _schedule(pipe.scheduler)
  coder = _coder(pipe)
  return Denoiser(
    eps=functools.partial(
      _eps,
      _network(unet, text, batch),
      schedule=schedule,
      prediction=prediction,
      null=(null := embed(pipe, [""])[0] if text else None),
    ),
    schedule=schedule,
    shape=(*_sides(pipe, size, coder), unet.config.in_channels),
    null_cond=null,
    encode=coder and functools.partial(_encode, coder),
    decode=coder and functools.partial(_decode, coder),
    traceable=False,
    num_classes=unet.config.num_class_embeds,
  )


def embed(pipe: Any, texts: Sequence[str]) -> Float[np.ndarray, "b tokens e"]:
  """The conditions of prompts, by the pipeline's own text encoder.

  Raises:
    ValueError: the pipeline has no `encode_prompt`.
  """
  torch, _ = pipeline_files.libraries()
  if not hasattr(pipe, "encode_prompt"):
    raise ValueError(
      f"{type(pipe).__name__} has no encode_prompt: its text encoder cannot "
      "be called alone"
    )
  with torch.no_grad():
    found = pipe.encode_prompt(
      list(texts),
      device=pipe.device,
      num_images_per_prompt=1,
      do_classifier_free_guidance=False,
    )
  return found[0].float().cpu().numpy()


def _unet(pipe: Any) -> tuple[Any, bool]:
  """(the network, whether it takes prompts)."""
  unet: Any = getattr(pipe, "unet", None)
  kind = type(unet).__name__
  if kind not in ("UNet2DModel", "UNet2DConditionModel"):
    raise ValueError(
      f"{type(pipe).__name__} has {kind if unet is not None else 'no U-Net'}: "
      "as a denoiser only UNet2DModel and UNet2DConditionModel are supported"
    )
  config = unet.config
  extra = config.get("addition_embed_type") or config.get("class_embed_type")
  if extra or config.get("encoder_hid_dim_type"):
    raise ValueError(
      f"this {type(unet).__name__} takes further conditions "
      f"({extra or config['encoder_hid_dim_type']}), as those of Stable "
      "Diffusion XL do: it is not supported as a denoiser"
    )
  return unet.eval(), kind == "UNet2DConditionModel"


def _schedule(scheduler: Any) -> tuple[Schedule, str]:
  name = type(scheduler).__name__
  betas = getattr(scheduler, "betas", None)
  predicted = scheduler.config.get("prediction_type", "epsilon")
  if betas is None or predicted not in PREDICTIONS:
    raise ValueError(
      f"{name} has {'no betas' if betas is None else predicted}: a denoiser "
      "needs a scheduler of betas that predicts epsilon, sample or v"
    )
  betas = np.asarray(betas, np.float64)
  return Schedule(f"diffusers {name}", betas), PREDICTIONS[predicted]


def _coder(pipe: Any) -> Any:
  for name in ("vae", "vqvae"):
    if getattr(pipe, name, None) is not None:
      getattr(pipe, name).eval()
      return getattr(pipe, name)
  return None


def _sides(pipe: Any, size: Any, coder: Any) -> tuple[int, int]:
  """Height and width of x: of the latents, where there is an encoder."""
  if size is None:
    size = pipe.unet.config.sample_size
    factor = 1
  else:
    factor = 2 ** (len(coder.config.block_out_channels) - 1) if coder else 1
  if size is None:
    raise ValueError("the U-Net does not say its size: give size=(h, w)")
  h, w = (size, size) if isinstance(size, int) else size
  return h // factor, w // factor


def _network(unet: Any, text: bool, batch: int) -> Callable:
  """(x [b c h w], t [b], cond or None) -> output, NumPy, in parts of batch."""
  torch, _ = pipeline_files.libraries()

  def one(x, t, cond):
    x = torch.from_numpy(x).to(unet.device, unet.dtype)
    t = torch.from_numpy(t).to(unet.device)
    options = {}
    if cond is not None and text:
      cond = torch.from_numpy(cond).to(unet.device, unet.dtype)
      options["encoder_hidden_states"] = cond
    elif cond is not None:
      options["class_labels"] = torch.from_numpy(cond).to(unet.device)
    with torch.no_grad():
      return unet(x, t, **options).sample.float().cpu().numpy()

  def call(x, t, cond):
    parts = [slice(i, i + batch) for i in range(0, len(x), batch)]
    return np.concatenate(
      [one(x[p], t[p], None if cond is None else cond[p]) for p in parts]
    )

  return call


def _eps(
  network: Callable,
  x_t: Float[AnyArray, "b h w c"],
  t: Int[AnyArray, " b"],
  cond: Any = None,
  *,
  schedule: Schedule,
  prediction: str,
  null: Float[np.ndarray, "tokens e"] | None,
) -> Float[AnyArray, "b h w c"]:
  x_t = np.asarray(x_t, np.float32)
  if cond is None and null is not None:
    cond = np.broadcast_to(null, (len(x_t), *null.shape))
  if cond is not None:
    number = np.float32 if null is not None else np.int64
    cond = np.array(cond, number)  # a copy: torch takes no read-only array
  x = np.array(x_t.transpose(0, 3, 1, 2), order="C")
  y = network(x, np.array(t, np.int64), cond).transpose(0, 2, 3, 1)
  y = y[..., : x_t.shape[-1]]  # a learned variance is left out
  return process.convert(
    y, x_t, t, schedule.alpha_bar, source=prediction, target="eps"
  )


def _scale(coder: Any) -> tuple[float, float]:
  config = coder.config
  return config.get("scaling_factor") or 1.0, config.get("shift_factor") or 0.0


def _encode(
  coder: Any, images: Float[AnyArray, "b h w c"]
) -> Float[np.ndarray, "b y x z"]:
  torch, _ = pipeline_files.libraries()
  scale, shift = _scale(coder)
  x = np.array(np.asarray(images, np.float32).transpose(0, 3, 1, 2), order="C")
  with torch.no_grad():
    found = coder.encode(torch.from_numpy(x).to(coder.device, coder.dtype))
    z = found.latents if hasattr(found, "latents") else found.latent_dist.mode()
  z = (z.float().cpu().numpy() - shift) * scale
  return z.transpose(0, 2, 3, 1).astype(np.float32)


def _decode(
  coder: Any, latents: Float[AnyArray, "b y x z"]
) -> Float[np.ndarray, "b h w c"]:
  torch, _ = pipeline_files.libraries()
  scale, shift = _scale(coder)
  z = np.asarray(latents, np.float32).transpose(0, 3, 1, 2) / scale + shift
  z = torch.from_numpy(np.array(z, np.float32, order="C"))
  with torch.no_grad():
    x = coder.decode(z.to(coder.device, coder.dtype)).sample
  return x.float().cpu().numpy().transpose(0, 2, 3, 1)
