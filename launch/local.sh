#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs one stage on this machine, with the code of this checkout:
#
#   launch/local.sh [--dry-run] STAGE --config=FILE.py[:args] --workdir=DIR ...
#
# STAGE is the name of a program in diffmem/bin. Paths are relative to where
# you are. --dry-run prints the command, quoted for a shell, and runs nothing.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

dry_run=false
if [[ ${1-} == --dry-run ]]; then
  dry_run=true
  shift
fi

stages=()
for file in "$root"/diffmem/bin/*.py; do
  name=$(basename "$file" .py)
  case $name in
    __init__ | program) ;; # no programs: the package, and what they share
    *) stages+=("$name") ;;
  esac
done

stage=${1-}
known=false
for name in "${stages[@]}"; do
  if [[ $name == "$stage" ]]; then
    known=true
  fi
done
if ! $known; then
  echo "local.sh: unknown stage '$stage': give one of ${stages[*]}" >&2
  exit 1
fi
shift

python=python3
if [[ -x $root/.venv/bin/python ]]; then
  python=$root/.venv/bin/python
fi
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"

if $dry_run; then
  printf 'PYTHONPATH=%q' "$PYTHONPATH"
  printf ' %q' "$python" -m diffmem.bin."$stage" "$@"
  printf '\n'
  exit 0
fi
exec "$python" -m diffmem.bin."$stage" "$@"
