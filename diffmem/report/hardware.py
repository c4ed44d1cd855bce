# SPDX-License-Identifier: Apache-2.0
"""Hardware that a plan may be made for without having it: published peaks.

  seconds = max(F / (u P), B / W)

F operations, P the vendor's dense peak for their type, u the utilisation (an
assumption: `UTILISATION` unless another is given), B bytes that must move, W
the vendor's memory bandwidth. Nothing here was measured.

float32 is what XLA makes of float32 products by default: TensorFloat-32 on
GPUs, one bfloat16 pass on TPUs.
"""

import dataclasses
from collections.abc import Mapping

from diffmem import args

UTILISATION = 0.3
# Assumed, and less than what virtual devices of one machine reach
# (docs/processes.md): real ones wait for each other over wires.
EFFICIENCY = 1 / 1.16


@dataclasses.dataclass(frozen=True)
class Hardware:
  """One device.

  Attributes:
    name: in words.
    peak: operations a second by type, without sparsity.
    memory: bytes. bandwidth: bytes a second.
    source: where the numbers were published.
  """

  name: str
  peak: Mapping[str, float]
  memory: float
  bandwidth: float
  source: str


HARDWARE = {
  "a100": Hardware(
    "NVIDIA A100 SXM, 80 GB",
    {"float32": 156e12, "bfloat16": 312e12, "int8": 624e12},
    80e9,
    2.039e12,
    "NVIDIA's data sheet of the A100",
  ),
  "h100": Hardware(
    "NVIDIA H100 SXM",
    {"float32": 494.7e12, "bfloat16": 989.4e12, "int8": 1978.9e12},
    80e9,
    3.35e12,
    "NVIDIA's data sheet of the H100",
  ),
  "tpu-v5e": Hardware(
    "TPU v5e, one chip",
    {"float32": 197e12, "bfloat16": 197e12, "int8": 393e12},
    16e9,
    0.819e12,
    "docs.cloud.google.com/tpu/docs/v5e",
  ),
}


def named(name: str) -> Hardware:
  """The hardware of that name; ValueError lists what there is."""
  if name not in HARDWARE:
    raise ValueError(args.unknown("hardware", name, ("here", *HARDWARE)))
  return HARDWARE[name]
