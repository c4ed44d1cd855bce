#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs one stage on Kubernetes, as a JobSet of one pod for each process:
#
#   launch/kubernetes.sh --name=NAME --image=IMAGE [--processes=1] \
#     [--resource=KEY=AMOUNT ...] [--node=LABEL=VALUE ...] \
#     [--claim=CLAIM:PATH] [--account=NAME] [--namespace=NAME] \
#     [--restarts=3] [--dry-run] \
#     STAGE --config=FILE.py[:args] --workdir=gs://BUCKET/DIR ...
#
# IMAGE has diffmem installed. --resource=nvidia.com/gpu=8 is what each pod
# gets, --node chooses its nodes, --account is its service account. --claim
# mounts a volume that all pods can write at PATH, where the workdir may lie as
# well as in a bucket. When a pod fails or its node dies, all start again, up to
# --restarts times, and go on from the workdir. --dry-run prints the manifest
# and applies nothing. Needs kubectl and the JobSet controller of the cluster.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=options.bash
source "$(dirname "${BASH_SOURCE[0]}")/options.bash"

name='' image='' processes=1 claim='' account='' namespace='' restarts=3
resources=() nodes=()
while [[ ${1-} == --* ]]; do
  case $1 in
    --name=*) name=${1#*=} ;;
    --image=*) image=${1#*=} ;;
    --processes=*) processes=${1#*=} ;;
    --resource=*=*) resources+=("${1#*=}") ;;
    --node=*=*) nodes+=("${1#*=}") ;;
    --claim=*) claim=${1#*=} ;;
    --account=*) account=${1#*=} ;;
    --namespace=*) namespace=${1#*=} ;;
    --restarts=*) restarts=${1#*=} ;;
    *) common_option "$1" ;;
  esac
  shift
done
stage "${1-}"
whole processes "$processes" 1
whole restarts "$restarts" 0
if [[ ! $name =~ ^[a-z]([-a-z0-9]{0,38}[a-z0-9])?$ ]]; then
  die "--name='$name': expected at most 40 small letters, digits and hyphens"
fi
if [[ -z $image ]]; then
  die "--image is missing: one that has diffmem installed"
fi
if [[ -n $claim && $claim != ?*:/* ]]; then
  die "--claim=$claim: expected CLAIM:/PATH"
fi
workdir=$(flag workdir "$@")
if [[ $workdir != gs://* && (-z $claim || $workdir/ != "${claim#*:}"/*) ]]; then
  die "--workdir='$workdir': expected gs://BUCKET/DIR or a folder of" \
    "--claim=CLAIM:PATH, the disks of pods are deleted with them"
fi

for word; do
  word=${word//[$'\n\t']/}
  if [[ $word == *[[:cntrl:]]* ]]; then
    die "$(quoted "$word"): a control character has no place in a manifest"
  fi
done

# json WORD: a string of JSON, which is YAML.
json() {
  local word=$1 slash=\\ quote='"'
  word=${word//"$slash"/"$slash$slash"}
  word=${word//"$quote"/"$slash$quote"}
  word=${word//$'\n'/"${slash}n"}
  word=${word//$'\t'/"${slash}t"}
  printf '"%s"\n' "$word"
}

# pairs TITLE KEY=VALUE...: a mapping under a title, where there are any.
pairs() {
  local pair
  if (($# > 1)); then
    echo "$1"
    for pair in "${@:2}"; do
      echo "${1%%[! ]*}  $(json "${pair%%=*}"): $(json "${pair#*=}")"
    done
  fi
}

# Kubernetes replaces $(NAME) in arguments, and reads $$ as $.
arguments() {
  local word dollar='$'
  for word; do
    echo "              - $(json "${word//"$dollar"/"$dollar$dollar"}")"
  done
}

# line INDENT KEY VALUE: where there is a value.
line() {
  if [[ -n $3 ]]; then
    printf '%*s%s: %s\n' "$1" '' "$2" "$(json "$3")"
  fi
}

manifest() {
  cat <<END
apiVersion: jobset.x-k8s.io/v1alpha2
kind: JobSet
metadata:
  name: $name
END
  line 2 namespace "$namespace"
  cat <<END
spec:
  network:
    enableDNSHostnames: true
    publishNotReadyAddresses: true
  failurePolicy:
    maxRestarts: $((10#$restarts))
  replicatedJobs:
  - name: run
    replicas: 1
    template:
      spec:
        completionMode: Indexed
        completions: $((10#$processes))
        parallelism: $((10#$processes))
        backoffLimit: 0
        template:
          spec:
            restartPolicy: Never
END
  line 12 serviceAccountName "$account"
  pairs '            nodeSelector:' ${nodes[@]+"${nodes[@]}"}
  if [[ -n $claim ]]; then
    cat <<END
            volumes:
            - name: workdir
              persistentVolumeClaim:
                claimName: $(json "${claim%%:*}")
END
  fi
  cat <<END
            containers:
            - name: diffmem
              image: $(json "$image")
              command: [python, -m, diffmem.bin.$1]
              args:
END
  arguments "${@:2}"
  if ((processes > 1)); then
    cat <<END
              - --processes=$((10#$processes))
              - --process=\$(JOB_COMPLETION_INDEX)
              - --coordinator=$name-run-0-0.$name:8476
END
  fi
  if ((${#resources[@]})); then
    echo '              resources:'
    pairs '                limits:' "${resources[@]}"
  fi
  if [[ -n $claim ]]; then
    cat <<END
              volumeMounts:
              - name: workdir
                mountPath: $(json "${claim#*:}")
END
  fi
}

if $dry_run; then
  manifest "$@"
  exit 0
fi
manifest "$@" | kubectl apply -f -
where=${namespace:+" --namespace=$namespace"}
echo "$me: follow it with: kubectl logs$where -f" \
  "-l jobset.sigs.k8s.io/jobset-name=$name --prefix" >&2
echo "$me: end it with: kubectl delete$where jobset $name" >&2
