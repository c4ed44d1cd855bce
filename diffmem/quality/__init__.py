# SPDX-License-Identifier: Apache-2.0
"""How good generated images are, so that models are compared at equal quality.

Nothing here tells copies from new images: a model that returns its training
images scores best against them.
"""

from diffmem.quality.frechet import frechet as frechet
from diffmem.quality.manifolds import density_coverage as density_coverage
from diffmem.quality.manifolds import precision_recall as precision_recall
