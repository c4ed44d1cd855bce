# SPDX-License-Identifier: Apache-2.0
"""Images that somebody else made, imported into a bank."""

import os


def run(
  root: str | os.PathLike, *, sample: dict, progress: bool = True
) -> None:
  """Makes <root>/sample from sample["path"]."""
  raise NotImplementedError(f"importing {sample['path']} into {root}")
