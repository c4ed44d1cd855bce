# SPDX-License-Identifier: Apache-2.0
"""The programs: one thin module per stage, `python -m diffmem.bin.<stage>`."""
