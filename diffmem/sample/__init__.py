# SPDX-License-Identifier: Apache-2.0
"""From sample ids to images: the chain, and the banks that chains fill."""
