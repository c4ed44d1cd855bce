#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs one stage on this machine, with the code of this checkout:
#
#   launch/local.sh [--dry-run] STAGE --config=FILE.py[:args] --workdir=DIR ...
#
# STAGE is the name of a program in diffmem/bin; all devices of the machine are
# used. Paths are relative to where you are. Python is the checkout's .venv,
# where there is one. --dry-run prints the command, quoted for a shell, and runs
# nothing.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=options.bash
source "$(dirname "${BASH_SOURCE[0]}")/options.bash"

while [[ ${1-} == --* ]]; do
  common_option "$1"
  shift
done
stage "${1-}"
program=diffmem.bin.$1
shift

python=python3
if [[ -x $root/.venv/bin/python ]]; then
  python=$root/.venv/bin/python
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

if $dry_run; then
  echo "PYTHONPATH=$(quoted "$PYTHONPATH" "$python" -m "$program" "$@")"
  exit 0
fi
exec "$python" -m "$program" "$@"
