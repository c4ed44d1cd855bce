# SPDX-License-Identifier: Apache-2.0
"""Which generations are training images, and how many that makes."""
