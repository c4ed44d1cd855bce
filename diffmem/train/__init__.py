# SPDX-License-Identifier: Apache-2.0
"""Training: state, step, loop, and the stage that ties them."""
