# SPDX-License-Identifier: Apache-2.0
"""The encoder of T5 through transformers, frozen (extra: torch).

Weights come from a folder that save_pretrained wrote or, by its id, from the
hub; only safetensors are read, and no code of the folder runs. Which weights
they were is a sha256 over all tensors and the tokenizer's vocabulary, so that
a folder and the hub agree.
"""

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np

from diffmem.arrays import Bool, Float, Int

BATCH = 32  # texts that are encoded at once


@dataclasses.dataclass(frozen=True, eq=False)
class T5:
  """A loaded encoder and its tokenizer."""

  tokenizer: Any
  model: Any
  digest: str

  @property
  def features(self) -> int:
    """Values of a token."""
    return self.model.config.d_model

  def counts(self, texts: Sequence[str]) -> Int[np.ndarray, " c"]:
    """Tokens of each text, the one that ends it included."""
    ids = self.tokenizer(list(texts), verbose=False)["input_ids"]
    return np.array([len(row) for row in ids], np.int64)

  def encode(
    self, texts: Sequence[str], *, length: int
  ) -> tuple[Float[np.ndarray, "c l e"], Bool[np.ndarray, "c l"]]:
    """The last hidden states, and where there is a token."""
    import torch  # pyright: ignore[reportMissingImports]

    tokens = np.zeros((len(texts), length, self.features), np.float32)
    mask = np.zeros((len(texts), length), bool)
    for start in range(0, len(texts), BATCH):
      rows = slice(start, start + BATCH)
      batch = self.tokenizer(
        list(texts[rows]),
        padding="max_length",
        truncation=True,
        max_length=length,
        return_tensors="pt",
      ).to(self.model.device)
      with torch.inference_mode():
        hidden = self.model(
          input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]
        ).last_hidden_state
      mask[rows] = batch["attention_mask"].cpu().numpy().astype(bool)
      tokens[rows] = hidden.float().cpu().numpy() * mask[rows, :, None]
    return tokens, mask


def load(path: str | os.PathLike) -> T5:
  """Loads a T5 encoder; the device is the GPU where there is one.

  Raises:
    ImportError: the extra is not installed.
    ValueError: there is no T5 at the path.
  """
  try:
    import torch  # pyright: ignore[reportMissingImports]
    import transformers  # pyright: ignore[reportMissingImports]
  except ImportError as e:
    raise ImportError(
      f"the T5 encoder needs torch and transformers ({e}): "
      "pip install 'diffmem[torch]'"
    ) from e
  name = os.fspath(path)
  local = os.path.isdir(os.path.expanduser(name))
  name = os.path.expanduser(name) if local else name
  try:
    config = transformers.AutoConfig.from_pretrained(
      name, local_files_only=local
    )
    if config.model_type not in ("t5", "umt5", "mt5"):
      raise ValueError(f"its model_type is {config.model_type!r}")
    tokenizer = transformers.AutoTokenizer.from_pretrained(
      name, local_files_only=local
    )
    kind = {"umt5": "UMT5EncoderModel", "mt5": "MT5EncoderModel"}.get(
      config.model_type, "T5EncoderModel"
    )
    model = getattr(transformers, kind).from_pretrained(
      name, local_files_only=local, use_safetensors=True
    )
  except (OSError, ValueError) as e:
    reason = str(e).strip().splitlines()[0]
    raise ValueError(
      f"data.captions.path={path} is no T5 ({reason}): give a folder that "
      "save_pretrained wrote (with its tokenizer), or a hub id"
    ) from e
  place = "cuda" if torch.cuda.is_available() else "cpu"
  model = model.to(place, torch.float32).eval()
  return T5(tokenizer, model, _digest(model, tokenizer))


def _digest(model: Any, tokenizer: Any) -> str:
  """sha256 over the tensors by name, and the vocabulary."""
  found = hashlib.sha256()
  for name, value in sorted(model.state_dict().items()):
    found.update(name.encode())
    found.update(np.ascontiguousarray(value.cpu().numpy()).tobytes())
  vocabulary = sorted(tokenizer.get_vocab().items())
  found.update(json.dumps(vocabulary).encode())
  return found.hexdigest()
