# SPDX-License-Identifier: Apache-2.0
"""One page for people, and the same results as JSON and CSV for programs.

Reads result files only and shows what exists: a stage that did not run is a
sentence on the page, not an error.
"""
