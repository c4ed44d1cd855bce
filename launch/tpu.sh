#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs one stage on a slice of Cloud TPUs: makes the slice, installs this
# checkout on all its workers, runs the stage on all of them, deletes the slice:
#
#   launch/tpu.sh --name=NAME --zone=ZONE --accelerator=TYPE --version=RUNTIME \
#     [--project=PROJECT] [--spot] [--keep] [--dry-run] \
#     STAGE --config=FILE.py[:args] --workdir=gs://BUCKET/DIR ...
#
# say with --accelerator=v5litepod-16 --version=v2-alpha-tpuv5-lite. The config
# is one of this checkout's configs/. The slice is deleted however the run ends,
# also by Ctrl-C; where that fails, the last line is the command that does it.
# The same command goes on from where the bucket stands. --keep leaves the slice
# running, and uses one of that name that there is. --dry-run prints the
# commands and runs nothing. Needs gcloud, logged in.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=options.bash
source "$(dirname "${BASH_SOURCE[0]}")/options.bash"

name='' zone='' accelerator='' version='' project=''
spot=false
keep=false
while [[ ${1-} == --* ]]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --zone=*) zone=${1#*=} ;;
    --accelerator=*) accelerator=${1#*=} ;;
    --version=*) version=${1#*=} ;;
    --project=*) project=${1#*=} ;;
    --spot) spot=true ;;
    --keep) keep=true ;;
    *) common_option "$1" ;;
  esac
  shift
done
stage "${1-}"
for option in name zone accelerator version; do
  if [[ -z ${!option} ]]; then
    die "--$option is missing: $me --help shows an example"
  fi
done
workdir=$(flag workdir "$@")
if [[ $workdir != gs://* ]]; then
  die "--workdir='$workdir': expected gs://BUCKET/DIR, the disks of the" \
    "workers are deleted with them"
fi
config=$(flag config "$@")
config=${config%%:*}
if [[ ! -f $root/configs/${config#configs/} ]]; then
  die "--config='$config' is none of this checkout's configs/, which are what" \
    "the workers get"
fi

where=(--zone="$zone")
if [[ -n $project ]]; then
  where+=(--project="$project")
fi
run() {
  if $dry_run; then
    quoted "$@"
    echo
  else
    "$@"
  fi
}
tpu() { # VERB WORDS...
  run gcloud compute tpus tpu-vm "$@" "${where[@]}"
}
listed() { # the names of the slices in this zone, one a line
  gcloud compute tpus tpu-vm list "${where[@]}" \
    --format="value(name.basename())"
}
gone() {
  local names
  names=$(listed) && ! grep -qxF -e "$name" <<<"$names"
}
by_hand=$(quoted gcloud compute tpus tpu-vm delete "$name" "${where[@]}")

# However this script ends: the slice is deleted, or it is said how.
end() {
  local status=$? try
  set +e
  trap '' INT TERM HUP
  rm -f "$temporary"
  if $keep && $dry_run; then
    exit "$status"
  elif $keep; then
    echo "$me: $name is kept, and costs money until: $by_hand" >&2
    exit "$status"
  fi
  for try in 1 2 3; do
    if tpu delete "$name" --quiet || gone; then
      exit "$status"
    fi
    sleep $((5 * try))
  done
  echo "$me: $name COULD NOT BE DELETED and costs money until: $by_hand" >&2
  exit $((status ? status : 1))
}

there=''
temporary=''
packed=diffmem.tar.gz
if ! $dry_run; then
  there=$(listed)
fi
if grep -qxF -e "$name" <<<"$there" && ! $keep; then
  die "$name is there already: give another --name, use it with --keep, or" \
    "delete it: $by_hand"
fi
trap end EXIT # before it is made: half made is made
trap 'exit 130' INT
trap 'exit 143' TERM HUP
if ! $dry_run; then
  temporary=$(mktemp)
  packed=$temporary
fi
if ! grep -qxF -e "$name" <<<"$there"; then
  options=(--accelerator-type="$accelerator" --version="$version")
  if $spot; then
    options+=(--spot)
  fi
  tpu create "$name" "${options[@]}"
fi

# The workers' own Python is too old: uv brings one.
# shellcheck disable=SC2016
install='set -e
rm -rf diffmem && mkdir diffmem && tar -xzf diffmem.tar.gz -C diffmem
curl -LsSf https://astral.sh/uv/install.sh | sh
cd diffmem
"$HOME/.local/bin/uv" venv --quiet --python 3.12 .venv
"$HOME/.local/bin/uv" pip install --quiet "jax[tpu]" ".[gcs]"'
files=(setup.py pyproject.toml README.md LICENSE configs diffmem launch)

run tar -czf "$packed" -C "$root" --exclude=__pycache__ "${files[@]}"
tpu scp "$packed" "$name:diffmem.tar.gz" --worker=all
tpu ssh "$name" --worker=all --command="$install"
tpu ssh "$name" --worker=all \
  --command="cd diffmem && exec launch/local.sh $(quoted "$@" --distributed)"
