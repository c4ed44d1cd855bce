# SPDX-License-Identifier: Apache-2.0
"""TensorBoard events of the training metrics, through the extra."""

import os
from collections.abc import Callable

from diffmem import workdir


def writer(folder: str | os.PathLike) -> Callable[[dict], None]:
  """A function that writes one line of metrics as scalars.

  Raises:
    ImportError: the extra is not installed.
    ValueError: the folder is in a bucket.
  """
  if not workdir.is_local(folder):
    raise ValueError(
      f"train.tensorboard=True writes events to local folders, not to {folder}:"
      " set train.tensorboard=False, metrics.jsonl holds the same numbers"
    )
  try:
    import tensorboardX  # pyright: ignore[reportMissingImports]
  except ImportError as e:
    raise ImportError(
      "train.tensorboard=True needs an extra: pip install "
      "'diffmem[tensorboard]', or set train.tensorboard=False"
    ) from e
  events = tensorboardX.SummaryWriter(os.fspath(folder))

  def write(line: dict) -> None:
    for name, value in line.items():
      if name != "step":
        events.add_scalar(name, value, line["step"])
    events.flush()

  return write
