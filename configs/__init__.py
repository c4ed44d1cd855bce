# SPDX-License-Identifier: Apache-2.0
"""Experiments, one per file; installed as diffmem.configs."""
