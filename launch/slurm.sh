#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Submits one stage to SLURM, on a file system that all nodes share:
#
#   launch/slurm.sh [--nodes=1] [--gpus=0] [--array=0-15] [--sbatch=OPTION ...] \
#     [--dry-run] STAGE --config=FILE.py[:args] --workdir=DIR ...
#
# One node: one process with all its GPUs (--gpus is the number on each node).
# Several nodes: one process for each GPU; they find each other through SLURM.
# --array makes a job of each number I, with shadow=I among the arguments of
# the config: one shadow model each. --sbatch=--partition=gpu, and so on, adds
# options of sbatch. A job whose node dies is put into the queue again and goes
# on from where it stopped. --dry-run prints the script and submits nothing.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=options.bash
source "$(dirname "${BASH_SOURCE[0]}")/options.bash"

nodes=1 gpus=0 array='' more=''
while [[ ${1-} == --* ]]; do
  case $1 in
    --nodes=*) nodes=${1#*=} ;;
    --gpus=*) gpus=${1#*=} ;;
    --array=*) array=${1#*=} ;;
    --sbatch=*)
      if [[ ! ${1#*=} =~ ^--[a-z][a-z0-9-]*(=[^[:space:]\"\'\\#]+)?$ ]]; then
        die "$1: expected --sbatch=--name=value without spaces and quotes;" \
          "others fit into: $me --dry-run ... | sbatch OPTIONS"
      fi
      more+="#SBATCH ${1#*=}"$'\n'
      ;;
    *) common_option "$1" ;;
  esac
  shift
done
whole nodes "$nodes" 1
whole gpus "$gpus" 0
if [[ -n $array && ! $array =~ ^[0-9][0-9,:-]*(%[0-9]+)?$ ]]; then
  die "--array=$array: expected numbers of shadow models, say 0-15 or 3,5"
fi
stage "${1-}"

# The words of the stage, in an array with the number of the job.
command=$(quoted "$root/launch/local.sh" "$1")
configs=0
for word in "${@:2}"; do
  command+=" $(quoted "$word")"
  if [[ -n $array && $word == --config=* ]]; then
    configs=$((configs + 1))
    separator=:
    if [[ $word == *:* ]]; then
      separator=,
    fi
    command+="${separator}shadow=\"\$SLURM_ARRAY_TASK_ID\""
  fi
done
if [[ -n $array ]] && ((configs != 1)); then
  die "--array=$array needs one --config=FILE.py[:args], to which it adds" \
    "shadow=I: found $configs"
fi

tasks=1
if ((nodes > 1)); then
  tasks=$((gpus > 1 ? gpus : 1))
  command+=' --distributed'
fi

script() {
  echo '#!/usr/bin/env bash'
  echo "#SBATCH --job-name=diffmem-$1"
  echo "#SBATCH --nodes=$nodes"
  echo "#SBATCH --ntasks-per-node=$tasks"
  if ((gpus)); then
    echo "#SBATCH --gpus-per-node=$gpus"
  fi
  if [[ -n $array ]]; then
    echo "#SBATCH --array=$array"
  fi
  echo '#SBATCH --requeue'
  echo '#SBATCH --open-mode=append'
  printf '%s' "$more"
  echo 'set -euo pipefail'
  echo "cd $(quoted "$PWD")"
  echo "srun --kill-on-bad-exit=1 $command"
}

if $dry_run; then
  script "$1"
else
  script "$1" | sbatch
fi
