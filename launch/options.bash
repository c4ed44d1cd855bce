# SPDX-License-Identifier: Apache-2.0
# shellcheck shell=bash disable=SC2034
#
# What the launchers share; sourced, not run. A launcher's own options stand
# before the name of the stage, what stands after it is the stage's:
#
#   launch/NAME.sh [--option=value ...] STAGE --config=... --workdir=... ...
#
# Keeps to what bash 3.2 (macOS) knows.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
me=$(basename "$0")
dry_run=false

# The error in one line, before anything runs.
die() {
  echo "$me: $*" >&2
  exit 1
}

# --help: the comment at the head of the launcher.
usage() {
  sed -n -e '1,3d' -e '/^#/!q' -e 's/^# \{0,1\}//p' "$0"
  exit 0
}

# The options that all launchers have, and those that none has.
common_option() {
  case $1 in
    --help) usage ;;
    --dry-run) dry_run=true ;;
    *) die "unknown option $1: $me --help lists them" ;;
  esac
}

# whole NAME VALUE LEAST: refuses what is no whole number of at least LEAST.
whole() {
  if [[ ! $2 =~ ^[0-9]{1,6}$ ]] || ((10#$2 < $3)); then
    die "--$1=$2: expected a whole number of at least $3"
  fi
}

# The programs in diffmem/bin, without what they share.
stages() {
  local file
  for file in "$root"/diffmem/bin/*.py; do
    basename "$file" .py
  done | grep -vx -e __init__ -e program | tr '\n' ' ' | sed 's/ $//'
}

# stage WORD: refuses what is not the name of a program.
stage() {
  local name
  for name in $(stages); do
    [[ $name != "${1-}" ]] || return 0
  done
  die "unknown stage '${1-}': give one of $(stages)"
}

# flag NAME WORDS...: the value of the stage's --NAME, in either spelling; the
# last one wins.
flag() {
  local name=$1 word before='' found=''
  shift
  for word; do
    case $before in
      --"$name" | -"$name") found=$word ;;
    esac
    case $word in
      --"$name"=* | -"$name"=*) found=${word#*=} ;;
    esac
    before=$word
  done
  printf '%s' "$found"
}

# quoted WORDS...: one line that any POSIX shell reads as these words.
quoted() {
  local word space='' quote="'" inside="'\\''"
  for word; do
    if [[ ! $word =~ ^[A-Za-z0-9_.,:=/@%+-]+$ ]]; then
      word=${word//"$quote"/"$inside"}
      word="'$word'"
    fi
    printf '%s%s' "$space" "$word"
    space=' '
  done
}
