# SPDX-License-Identifier: Apache-2.0
"""A diffusers pipeline as the generator of a bank (extra: torch).

Any text-to-image or unconditional pipeline: `per_prompt` images of each prompt
of a file, or `per_prompt` images in all. Image i is of prompt i // per_prompt
and has a random generator of its own, on the CPU, whose seed is

  (s + i) mod 2^32,   s = the first 32 bits of sha256(seed),

(PyTorch's generator keeps no more of a seed), so that its noise depends on
(seed, i) alone. Images are made in blocks of `batch` ids of fixed boundaries,
one chunk of the store each; a bank that was stopped is completed by the same
blocks, and so bit-identical to one made without a stop.

A safety checker runs if the pipeline has one. An image that it replaced by
black is no generation: its id is listed under "flagged" in meta.json, and it
belongs to no prompt (its entry in prompt_ids is -1).
"""

import dataclasses
import hashlib
import inspect
import logging
import os
from typing import Any

import numpy as np

from diffmem import workdir
from diffmem.arrays import AnyArray, Bool, Int, UInt8
from diffmem.denoiser import pipeline_files
from diffmem.sample import (
  bank,
  mitigation,
  perturbation,
  pipeline_blocks,
  prompts,
)

_log = logging.getLogger(__name__)

OURS = ("prompt", "generator", "output_type", "return_dict", "batch_size")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Settings:
  """The config section.

  Attributes:
    pipeline: a folder or hub name; see `denoiser.pipeline_files`.
    prompts: a file, in the workdir or elsewhere, see `sample.prompts`; None for
      an unconditional pipeline.
    per_prompt: images of each prompt, or of the bank where there are none.
    batch: images at a time; part of what an image is, up to rounding.
    steps: network calls of an image.
    guidance: classifier-free scale; None for the pipeline's own. Without
      prompts there is none.
    size: side of the images, or (height, width); None for the pipeline's own.
    dtype: "float32", "float16" or "bfloat16".
    device: of torch; None for the first GPU, or the CPU without one.
    options: further arguments of the pipeline's call.
    mitigation: words of each image's prompt changed, such as dict(
      name="repeat", count=4), see `sample.perturbation`; None for none.
  """

  pipeline: str
  prompts: str | None
  per_prompt: int
  batch: int
  steps: int
  guidance: float | None
  size: int | tuple[int, int] | None
  dtype: str
  device: str | None
  options: dict[str, Any]
  mitigation: dict[str, Any] | None = None

  def __post_init__(self):
    if not self.pipeline:
      raise ValueError(
        "sample.pipeline is missing: give a folder that diffusers' "
        "save_pretrained wrote, or a name on the hub"
      )
    for name in ("per_prompt", "batch", "steps"):
      if getattr(self, name) < 1:
        raise ValueError(
          f"sample.{name}={getattr(self, name)} must be at least 1"
        )
    if self.mitigation is not None:
      mitigation.check(self.mitigation)
      name = self.mitigation["name"]
      if "count" not in self.mitigation or self.prompts is None:
        raise ValueError(
          f"sample.mitigation {name!r} cannot be had of a pipeline: expected "
          "replace, add or repeat, and sample.prompts"
        )
    taken = sorted(set(self.options) & set(OURS))
    if taken:
      raise ValueError(
        f"sample.options sets {taken[0]!r}, which is diffmem's to set"
      )


def run(
  root: str | os.PathLike, *, seed: int, sample: dict, progress: bool = True
) -> None:
  """Makes <root>/sample, or what is still missing of it.

  Args:
    root: the workdir.
    seed: of the noise; see the module's text.
    sample: the config section, as a plain dict; see `Settings`.
    progress: show the rate and the time left.

  Raises:
    ImportError: the extra is not installed.
    FileNotFoundError: there is no such pipeline or file of prompts.
    ValueError, OSError: bad input, before anything is computed.
    FloatingPointError: an image is not finite; names the ids.
  """
  given = Settings(**sample)
  texts, repeated = _read_prompts(root, given.prompts)
  folder = pipeline_files.locate(given.pipeline)
  n = given.per_prompt * len(texts or ("",))

  def prepare():
    dtype, device = given.dtype, given.device
    pipe = pipeline_files.load(folder, dtype=dtype, device=device)
    return pipe, generator(pipe, given, texts, seed)

  # Before the stage opens: what cannot be made leaves nothing behind.
  there = pipeline_blocks.complete(workdir.path(root) / "sample")
  prepared = None if there else prepare()
  with workdir.stage(
    root,
    "sample",
    config={"seed": seed, "sample": sample},
    inputs={
      "pipeline": pipeline_files.digest(folder),
      "prompts": workdir.digest(texts),
    },
  ) as stage:
    if stage.finished and there:
      _log.info("sample: finished before, kept (%s)", stage.folder)
      return
    pipe, make = prepared or prepare()
    _record(stage, pipe, n, repeated)
    if texts is not None:
      stage.record("truncated", _count_truncated(pipe, texts))
    batch = given.batch
    flagged = pipeline_blocks.fill(
      stage.folder, make, n=n, batch=batch, progress=progress
    )
    _write_prompts(stage, texts, np.arange(n) // given.per_prompt, flagged)


def generator(
  pipe: Any, given: Settings, texts: tuple[str, ...] | None, seed: int
) -> pipeline_blocks.Make:
  """What makes a block of images from their ids.

  Raises:
    ValueError: the pipeline does not take what is given, or needs more.
  """
  torch, _ = pipeline_files.libraries()
  fixed, grouped = _arguments(pipe, given, texts is not None)
  words = sorted({word for text in texts or () for word in text.split()})

  def prompt(i: int) -> str:
    assert texts is not None
    text = texts[i // given.per_prompt]
    if given.mitigation is None:
      return text
    return perturbation.words(
      text,
      np.random.default_rng(seed_of(seed, i)),
      kind=given.mitigation["name"],
      count=given.mitigation["count"],
      vocabulary=words,
    )

  def make(ids):
    arguments = dict(fixed)
    arguments["generator"] = [
      torch.Generator("cpu").manual_seed(seed_of(seed, int(i))) for i in ids
    ]
    if texts is not None:
      arguments["prompt"] = [prompt(int(i)) for i in ids]
    elif grouped:
      arguments["batch_size"] = len(ids)
    try:
      with pipeline_files.quiet():
        made = pipe(**arguments)
    except torch.OutOfMemoryError as e:
      raise RuntimeError(
        f"sampling: out of memory with sample.batch={given.batch}; lower it, "
        "sample.size, or use sample.dtype=bfloat16"
      ) from e
    flags = getattr(made, "nsfw_content_detected", None)
    if flags is not None:
      flags = np.array([bool(flag) for flag in flags])
    return _to_uint8(made.images, ids), flags

  return make


def seed_of(seed: int, i: int) -> int:
  """The seed of image i: different ids never share one in a bank."""
  start = hashlib.sha256(f"diffmem pipeline {seed}".encode()).digest()[:4]
  return (int.from_bytes(start) + i) % 2**32


def _read_prompts(
  root: str | os.PathLike, path: str | None
) -> tuple[tuple[str, ...] | None, int]:
  if path is None:
    return None, 0
  texts, repeated = prompts.read(path, root=root)
  if repeated:
    _log.warning(
      "sample: %d lines of %s repeat an earlier prompt and are left out",
      repeated,
      path,
    )
  return texts, repeated


def _arguments(
  pipe: Any, given: Settings, texts: bool
) -> tuple[dict[str, Any], bool]:
  """(arguments that are the same for all blocks, whether it takes a batch)."""
  name = type(pipe).__name__
  taken = inspect.signature(pipe.__call__).parameters
  if texts and "prompt" not in taken:
    raise ValueError(f"{name} takes no prompts: leave out sample.prompts")
  if not texts and "batch_size" not in taken:
    raise ValueError(
      f"{name} is not unconditional: give sample.prompts, a file"
      if "prompt" in taken
      else f"{name} takes neither prompts nor batch_size: not supported"
    )
  fixed: dict[str, Any] = {
    "num_inference_steps": given.steps,
    "output_type": "np",
  }
  if texts and given.guidance is not None:
    fixed["guidance_scale"] = given.guidance
  if given.size is not None:
    size = given.size
    sides = (size, size) if isinstance(size, int) else tuple(size)
    fixed["height"], fixed["width"] = sides
  fixed |= given.options
  unknown = [key for key in (*fixed, "generator") if key not in taken]
  if unknown:
    raise ValueError(
      f"{name} takes no {unknown[0]!r}; it takes "
      f"{', '.join(key for key in taken if key != 'kwargs')}"
    )
  needed = [
    key
    for key, value in taken.items()
    if value.default is value.empty
    and value.kind is value.POSITIONAL_OR_KEYWORD
    and key not in (*fixed, *OURS)
  ]
  if needed:
    raise ValueError(
      f"{name} needs {needed[0]!r}: give it in sample.options, or use a "
      "text-to-image pipeline"
    )
  return fixed, not texts


def _to_uint8(
  images: AnyArray, ids: Int[np.ndarray, " b"]
) -> UInt8[np.ndarray, "b h w c"]:
  images = np.asarray(images)
  if images.ndim != 4 or len(images) != len(ids):
    raise ValueError(
      f"the pipeline gave images of shape {images.shape} for {len(ids)} ids; "
      "expected [b h w c]"
    )
  finite = np.isfinite(images).all((1, 2, 3))
  if not finite.all():
    raise FloatingPointError(
      f"sampling: {(~finite).sum()} images are not finite, the first has id "
      f"{ids[~finite][0]}; use sample.dtype=float32 or bfloat16"
    )
  return (np.clip(images, 0.0, 1.0) * 255).round().astype(np.uint8)


def _count_truncated(pipe: Any, texts: tuple[str, ...]) -> int:
  """How many prompts the pipeline cuts; logs it once."""
  cut = np.zeros(len(texts), bool)
  limit = 0
  for name in ("tokenizer", "tokenizer_2", "tokenizer_3"):
    tokenizer = getattr(pipe, name, None)
    longest = getattr(tokenizer, "model_max_length", 10**9)
    if tokenizer is None or longest >= 10**6:
      continue
    limit = longest
    with pipeline_files.quiet():
      tokens = tokenizer(list(texts), truncation=False)["input_ids"]
    cut |= np.array([len(row) > longest for row in tokens])
  if cut.any():
    _log.warning(
      "sample: the pipeline cuts %d of %d prompts to %d tokens, the first is "
      "prompt %d: %.60r",
      cut.sum(),
      len(texts),
      limit,
      int(cut.argmax()),
      texts[int(cut.argmax())],
    )
  return int(cut.sum())


def _record(stage: workdir.Stage, pipe: Any, n: int, repeated: int) -> None:
  torch, diffusers = pipeline_files.libraries()
  stage.record("generated", n)
  stage.record("repeated_prompts", repeated)
  stage.record(
    "made_by",
    {
      "pipeline": type(pipe).__name__,
      "scheduler": type(pipe.scheduler).__name__,
      "device": str(pipe.device),
      "torch": torch.__version__,
      "diffusers": diffusers.__version__,
    },
  )


def _write_prompts(
  stage: workdir.Stage,
  texts: tuple[str, ...] | None,
  groups: Int[np.ndarray, " n"],
  flagged: Bool[np.ndarray, " n"] | None,
) -> None:
  """Writes what the bank knows of prompts; flagged images have none."""
  if flagged is not None:
    stage.record("flagged", np.flatnonzero(flagged))
    groups = np.where(flagged, -1, groups)
  if texts is not None:
    bank.write_beside(stage.folder, prompts=texts, prompt_ids=groups)
  if flagged is not None and flagged.any():
    _log.warning(
      "sample: the pipeline's safety checker replaced %d of %d images by "
      "black; they are listed in meta.json and belong to no prompt",
      flagged.sum(),
      len(flagged),
    )
