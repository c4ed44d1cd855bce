# SPDX-License-Identifier: Apache-2.0
"""Which process this is, as the cluster says: SLURM, TPU pods, MPI, Kubernetes.

JAX knows how to ask them; here it is asked before it connects anything, so
that mistakes are found by the meeting and not by a runtime that waits.
"""

import glob
import importlib.util
from typing import Any

# Chips of a host -> how they lie in it, as libtpu wants it said.
BOUNDS = {1: "1,1,1", 4: "2,2,1", 8: "2,4,1"}


def detect() -> dict[str, Any]:
  """index, count, coordinator and devices of this process, as `join` takes.

  Where several processes share the accelerators of a machine, JAX is made to
  see those of this one only.

  Raises:
    ValueError: no cluster is recognised, or this JAX cannot be asked.
  """
  try:
    from jax._src.clusters import ClusterEnv

    coordinator, count, index, devices = (
      ClusterEnv.auto_detect_unset_distributed_params(
        None, None, None, None, None, 60
      )
    )
  except (ImportError, AttributeError, TypeError) as e:
    raise ValueError(
      f"--distributed: this version of JAX cannot be asked ({e}); give "
      "--processes, --process and --coordinator"
    ) from e
  if coordinator is None or count is None or index is None:
    raise ValueError(
      "--distributed: no cluster is recognised (SLURM, TPU pod, Open MPI, "
      "Kubernetes); give --processes, --process and --coordinator"
    )
  if devices is not None:
    import jax

    visible = ",".join(map(str, devices))
    jax.config.update("jax_cuda_visible_devices", visible)
    jax.config.update("jax_rocm_visible_devices", visible)
  return {
    "index": index,
    "count": count,
    "coordinator": coordinator,
    "devices": devices,
  }


def own_chips() -> dict[str, str]:
  """Variables that make a host of a TPU pod a machine of its own.

  Without them libtpu waits for all hosts before it shows any chip, in work
  that needs no other host too. Empty where there is no pod.
  """
  if importlib.util.find_spec("libtpu") is None:
    return {}
  chips = len(glob.glob("/dev/accel[0-9]*")) or len(
    glob.glob("/dev/vfio/[0-9]*")
  )
  if chips not in BOUNDS:
    return {}
  return {
    "TPU_CHIPS_PER_PROCESS_BOUNDS": BOUNDS[chips],
    "TPU_PROCESS_BOUNDS": "1,1,1",
    "TPU_VISIBLE_CHIPS": ",".join(map(str, range(chips))),
  }
