#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
#
# Runs one stage in several processes on this machine, as on a pod of machines:
#
#   launch/pod.sh [--processes=2] [--logs=DIR] [--port=PORT] [--dry-run] \
#     STAGE --config=FILE.py[:args] --workdir=DIR ...
#
# Each process writes DIR/process-I.log (DIR is WORKDIR/logs, where nothing else
# is said), and process 0 the terminal too. When one fails it is named with the
# end of its log; the others do what they can without it, and then stop too. The
# exit status is that of the first that failed. The same command goes on from
# there. Processes meet at localhost:PORT, by default a free one. --dry-run
# prints the commands and runs nothing.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=options.bash
source "$(dirname "${BASH_SOURCE[0]}")/options.bash"

processes=2
logs=''
port=''
while [[ ${1-} == --* ]]; do
  case $1 in
    --processes=*) processes=${1#*=} ;;
    --logs=*) logs=${1#*=} ;;
    --port=*) port=${1#*=} ;;
    *) common_option "$1" ;;
  esac
  shift
done
whole processes "$processes" 1
stage "${1-}"

if [[ -z $logs ]]; then
  workdir=$(flag workdir "$@")
  if [[ -z $workdir || $workdir == *://* ]]; then
    die "--workdir='$workdir' is no folder for logs: give --logs=DIR"
  fi
  logs=$workdir/logs
fi
logs=${logs/#\~\//${HOME-}/}

# A port that nobody listens on, below those of outgoing connections.
free_port() {
  local port
  while port=$((20000 + RANDOM % 10000)); do
    (: <"/dev/tcp/127.0.0.1/$port") 2>/dev/null || break
  done
  echo "$port"
}
if [[ -z $port ]]; then
  port=$(free_port)
fi
whole port "$port" 1

if $dry_run; then
  for ((i = 0; i < processes; i++)); do
    printf '%s >> %s 2>&1 &\n' "$(
      "$root/launch/local.sh" --dry-run "$@" --processes="$processes" \
        --process="$i" --coordinator=localhost:"$port"
    )" "$(quoted "$logs/process-$i.log")"
  done
  echo wait
  exit 0
fi

# stop SIGNAL: to all that run; after ten seconds they are killed.
# shellcheck disable=SC2329  # the traps call it
stop() {
  local i pid
  for pid in "${pids[@]}"; do
    kill -"$1" "$pid" 2>/dev/null || true
  done
  for ((i = 0; i < 50; i++)); do
    for pid in "${pids[@]}"; do
      if kill -0 "$pid" 2>/dev/null; then
        sleep 0.2
        continue 2
      fi
    done
    return 0
  done
  for pid in "${pids[@]}"; do
    kill -KILL -- -"$pid" && wait "$pid" || true
  done 2>/dev/null
}

mkdir -p "$logs"
pids=()
sizes=() # of the logs of earlier runs
trap 'stop INT; exit 130' INT
trap 'stop TERM; exit 143' TERM HUP
set -m # a process group each: Ctrl-C comes here, and from here to them
for ((i = 0; i < processes; i++)); do
  log=$logs/process-$i.log
  touch "$log"
  sizes[i]=$(wc -c <"$log")
  if ((i == 0)); then
    exec 3> >(exec tee -ia "$log")
  else
    exec 3>>"$log"
  fi
  "$root/launch/local.sh" "$@" --processes="$processes" --process="$i" \
    --coordinator=localhost:"$port" </dev/null >&3 2>&3 3>&- &
  pids[i]=$!
done
exec 3>&-
set +m
echo "$me: $processes processes, logs in $logs" >&2

exec 4>&2 2>/dev/null # bash tells of killed jobs in its own way
left=$processes
failed=0
while ((left)); do
  sleep 0.2
  for ((i = 0; i < processes; i++)); do
    pid=${pids[i]}
    if [[ $pid == ended ]] || kill -0 "$pid" 2>/dev/null; then
      continue
    fi
    status=0
    wait "$pid" || status=$?
    pids[i]=ended
    left=$((left - 1))
    if ((status && !failed)); then
      failed=$status
      log=$logs/process-$i.log
      echo "$me: process $i of $processes ended with status $status; the" \
        "others do what they can without it. The end of $log:" >&4
      tail -c +$((sizes[i] + 1)) "$log" | tail -n 5 >&4
    fi
  done
done
exit "$failed"
