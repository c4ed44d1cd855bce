# SPDX-License-Identifier: Apache-2.0
"""How far images are from each other, exactly, and who is nearest to whom."""

from diffmem.distances.knn import Neighbours, nearest

__all__ = ["Neighbours", "nearest"]
