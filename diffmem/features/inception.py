# SPDX-License-Identifier: Apache-2.0
"""The Inception network of the FID, through torch-fidelity (extra: fid).

2,048 averages over the last feature maps of the network that Heusel et al. 2017
(arXiv 1706.08500) took: Inception v3 of 2015, on images resized to 299 x 299 as
TensorFlow 1 did. The Frechet distance of these vectors is the FID; that of any
other features is not. Grey images are repeated in three channels.

The weights are a file of the user's, in torch-fidelity's names: nothing is
downloaded, and no pickle is loaded (`diffmem.models.weights` reads the file).
"""

import os
import pathlib
import tempfile

import numpy as np

from diffmem.arrays import Float, UInt8
from diffmem.features import weights
from diffmem.features.protocol import Features
from diffmem.models.weights import read

LAYER = "2048"


def create(path: str | os.PathLike, *, device: str | None = None) -> Features:
  """Inception's pooled features; device: of PyTorch, by default the fastest.

  Raises:
    FileNotFoundError, ValueError: no such file, no such network.
    ImportError: it needs the extra, which is not installed.
  """
  state = read(path)
  try:
    import torch  # pyright: ignore[reportMissingImports]
    from torch_fidelity import (  # pyright: ignore[reportMissingImports]
      feature_extractor_inceptionv3 as inception,
    )
  except (ImportError, RuntimeError) as e:  # torchvision of another torch
    raise ImportError(
      f"features 'inception' need torch-fidelity ({e}): "
      "pip install 'diffmem[fid]'"
    ) from e
  with tempfile.TemporaryDirectory() as folder:
    # The network loads whatever lies in the file it is given: this one is ours.
    own = pathlib.Path(folder) / "weights.pth"
    torch.save({k: torch.from_numpy(v) for k, v in state.items()}, own)
    try:
      model = inception.FeatureExtractorInceptionV3(
        "inception", [LAYER], feature_extractor_weights_path=os.fspath(own)
      )
    except RuntimeError as e:
      raise ValueError(
        f"{path} does not hold the Inception network of the FID: take the "
        "weights in torch-fidelity's names (weights-inception-2015-12-05)"
      ) from e
  place = device or ("cuda" if torch.cuda.is_available() else "cpu")
  model = model.to(place)

  def embed(images: UInt8[np.ndarray, "b h w c"]) -> Float[np.ndarray, "b d"]:
    if images.shape[3] == 1:
      images = np.repeat(images, 3, axis=3)
    x = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2)
    with torch.inference_mode():
      (vectors,) = model(x.to(place))
    return vectors.cpu().numpy()

  return Features("inception", embed, "l2", {"weights": weights.digest(path)})
