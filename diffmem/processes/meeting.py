# SPDX-License-Identifier: Apache-2.0
"""How the processes of one run find each other, and find out mistakes.

Each writes its file (`member`) and reads those of the others until all see
the same living ones, numbered 0 to N - 1, with the same count, version,
program and config. Whoever sees a mistake says so in its own file and stays
until all have seen it, so that every process ends with the cause. Files that
do not beat are left from earlier runs: they count for nothing.
"""

import itertools
import json
import time
from typing import Any

from diffmem.processes.member import Member, Watch, get, where

WAIT = 45.0  # seconds in which all must have come
LATE = 10.0  # seconds that a mistake is told to those who come late
LOOK = 0.2  # seconds between two looks

# What is wrong with one key of `about`: what must be done.
_ADVICE = {
  "version": "install the same version everywhere",
  "program": "start the same program everywhere",
}


def meet(member: Member, *, wait: float = WAIT) -> None:
  """Waits until all members are there and agree; then `member.files` is known.

  Raises:
    ValueError: two have the same number, or differ in anything.
    TimeoutError: some did not come.
    OSError: the folder cannot be written.
  """
  member.start()
  deadline = time.monotonic() + wait
  watch = Watch()
  while True:
    found, busy = _members(member, watch)
    names = {c["nonce"]: name for name, c in found.items()}
    wrong = _mistake(member, list(found.values()))
    if wrong:
      member.say(about=_about(member), mistake=wrong, sees=sorted(names))
      _stay(member, watch, deadline)
      raise ValueError(wrong)
    mine = sorted(names)
    if mine != _sees(member):
      member.say(sees=mine)
    everyone = {c["index"] for c in found.values()} == {*range(member.count)}
    agreed = all(c["sees"] == mine for c in found.values())
    if everyone and agreed and busy is None:
      member.files = {c["index"]: name for name, c in found.items()}
      member.say(met=True)
      _tidy(member, watch)
      return
    if time.monotonic() > deadline:
      raise TimeoutError(_absent(member, found, busy))
    time.sleep(LOOK)


def _members(
  member: Member, watch: Watch
) -> tuple[dict[str, dict[str, Any]], dict[str, Any] | None]:
  """The living: file -> content of those to meet, and one of another run."""
  found, busy = {}, None
  for file in member.folder.glob("*.json"):
    mine = file.name == member.name
    content = member.read(member.index) if mine else get(file)
    if content is None:
      continue
    if content["met"] and member.nonce in content["sees"]:
      found[file.name] = content  # it has gone on, perhaps to its end
    elif content["ended"] is not None:
      continue
    elif mine or watch.look(file.name, content) == "alive":
      if content["met"]:
        busy = content
      else:
        found[file.name] = content
  return dict(sorted(found.items())), busy


def _mistake(member: Member, found: list[dict[str, Any]]) -> str | None:
  """The first thing that cannot be, the same sentence for everybody."""
  for content in found:
    if content.get("mistake") and content["nonce"] != member.nonce:
      return content["mistake"]
  found = sorted(found, key=lambda c: (c["index"], c["nonce"]))
  first = found[0]
  for other in found[1:]:
    if other["count"] != first["count"]:
      return (
        f"process {first['index']} was started with --processes="
        f"{first['count']}, process {other['index']} with --processes="
        f"{other['count']}: give all the same number"
      )
  for one, other in itertools.pairwise(found):
    if one["index"] == other["index"]:
      return (
        f"two processes have --process={one['index']} ({where(one)}; "
        f"{where(other)}): give each its own number, 0 to {one['count'] - 1}"
      )
  for other in found[1:]:
    key, was, now = _differ(first["about"], other["about"])
    if key:
      advice = _ADVICE.get(key, "give all processes the same flags")
      return (
        f"process {first['index']} has {key} = {was!r}, process "
        f"{other['index']} has {now!r}: {advice}"
      )
  return None


def _differ(one: dict, other: dict) -> tuple[str, Any, Any]:
  """The first key that differs, dotted, with both values."""
  a, b = _flat(one), _flat(other)
  for key in [*a, *(k for k in b if k not in a)]:
    was, now = a.get(key, "(absent)"), b.get(key, "(absent)")
    if was != now:
      return key, was, now
  return "", None, None


def _flat(tree: Any, prefix: str = "") -> dict[str, Any]:
  if not isinstance(tree, dict) or not tree:
    return {prefix.rstrip("."): tree}
  found: dict[str, Any] = {}
  for key, value in tree.items():
    found |= _flat(value, f"{prefix}{key}.")
  return found


def plain(about: dict[str, Any]) -> dict[str, Any]:
  """As it is after it was written and read."""
  return json.loads(json.dumps(about, default=str))


def _about(member: Member) -> dict[str, Any]:
  content = member.read(member.index)
  return content["about"] if content else {}


def _sees(member: Member) -> list[str]:
  content = member.read(member.index)
  return content["sees"] if content else []


def _stay(member: Member, watch: Watch, deadline: float) -> None:
  """Until as many as there should be have seen the mistake.

  Where they do not agree how many that is, a little longer for late ones.
  """
  told: set[str] = set()
  enough = time.monotonic() + LATE
  while time.monotonic() < deadline:
    found = list(_members(member, watch)[0].values())
    told |= {c["nonce"] for c in found if c.get("mistake")}
    counts = {c["count"] for c in found}
    if all(c["nonce"] in told for c in found) and (
      len(told) >= max(counts)
      or (len(told) >= min(counts) and time.monotonic() > enough)
    ):
      time.sleep(2 * LOOK)  # the last may only just have said so
      return
    time.sleep(LOOK)


def _absent(
  member: Member, found: dict[str, dict], busy: dict[str, Any] | None
) -> str:
  """Who did not come, and what to look at."""
  if busy is not None:
    return (
      f"another run of {busy['count']} processes is at work in "
      f"{member.folder.parent} (process {busy['index']}: {where(busy)}); wait "
      "for its end, or choose another --workdir"
    )
  there = {c["index"] for c in found.values()}
  missing = sorted({*range(member.count)} - there)
  if not missing:
    return (
      f"the processes in {member.folder.parent} do not see each other; is it "
      "one folder that all machines share?"
    )
  names = ", ".join(map(str, missing))
  return (
    f"process {member.index} of {member.count} met no process {names} in "
    f"{member.folder.parent}; start all of them, within {WAIT:.0f} s, with the "
    "same --processes and the same --workdir, a folder that all machines see"
  )


def _tidy(member: Member, watch: Watch) -> None:
  """Process 0 removes what dead runs have left."""
  if member.index:
    return
  for file in member.folder.glob("*.json*"):
    if file.name in member.files.values() or file.name.endswith(".tmp"):
      continue
    content = get(file)
    if (
      content is None
      or content["ended"] is not None
      or watch.look(file.name, content) == "dead"
    ):
      file.unlink(missing_ok=True)
