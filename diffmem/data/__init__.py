# SPDX-License-Identifier: Apache-2.0
"""Data: named sources to uint8 images with ids, splits, and batches."""

from diffmem.data.batches import Batches
from diffmem.data.captions import Captions
from diffmem.data.dataset import Dataset
from diffmem.data.poisson import PoissonBatches
from diffmem.data.prepared import prepare, prepare_given, read
from diffmem.data.sources import load
from diffmem.data.splits import SETS, Split, split

__all__ = [
  "SETS",
  "Batches",
  "Captions",
  "Dataset",
  "PoissonBatches",
  "Split",
  "load",
  "prepare",
  "prepare_given",
  "read",
  "split",
]
