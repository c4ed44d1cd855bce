# SPDX-License-Identifier: Apache-2.0
"""What the programs share: flags, the config file, errors in one line.

A program reads flags, turns its config into plain dictionaries and calls one
stage. Nothing here, and nothing at the top of a program, imports JAX: `--help`
and a misspelt key answer at once.

  --config=FILE.py[:args]       a path, or the name of an installed config
  --config.section.key=value    an override; an unknown key is refused
  --workdir=DIR                 where stages read and write
  --traceback                   the whole traceback of an error

One run may have several processes, each started with the same flags and

  --processes=N --process=I     how many, and which this is, 0 to N-1
  --coordinator=HOST:PORT       where process 0 is reached in training; where
                                it is not given, process 0 finds a free port
  --distributed                 in place of all three: as the cluster says

or with DIFFMEM_PROCESSES, DIFFMEM_PROCESS and DIFFMEM_COORDINATOR set.
"""

import contextlib
import importlib.util
import inspect
import logging
import os
import pathlib
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import ml_collections
from absl import app, flags
from absl import logging as absl_logging
from ml_collections import config_flags

import diffmem
from diffmem import args

config_flags.DEFINE_config_file(
  "config",
  help_string="experiment, FILE.py[:args]; override with --config.key=value",
  lock_config=True,
)
flags.DEFINE_string("workdir", None, "folder of the run; stages meet in it")
flags.DEFINE_boolean("traceback", False, "print the traceback of an error")
flags.DEFINE_integer(
  "processes",
  os.environ.get("DIFFMEM_PROCESSES", "1"),
  "how many processes share the run",
  lower_bound=1,
)
flags.DEFINE_integer(
  "process",
  os.environ.get("DIFFMEM_PROCESS"),
  "which of them this is, 0 to N-1",
)
flags.DEFINE_string(
  "coordinator",
  os.environ.get("DIFFMEM_COORDINATOR"),
  "HOST:PORT of process 0 in training; default: it finds a port",
)
flags.DEFINE_boolean(
  "distributed", False, "take all three from SLURM, a TPU pod, MPI, Kubernetes"
)


_FLAGS = (
  "config",
  "workdir",
  "traceback",
  "processes",
  "process",
  "coordinator",
  "distributed",
)


def start(name: str, main: Callable[[dict, str], None]) -> None:
  """Runs one program and exits: 0 when done, 1 on an error, 130 on Ctrl-C.

  Args:
    name: the stage; messages start with `diffmem-<name>`.
    main: takes the config as plain dictionaries, and the workdir.
  """
  _describe(name, sys.modules[main.__module__].__doc__)
  sys.argv[1:] = _installed_config(sys.argv[1:])
  code = 1
  try:
    app.run(
      lambda _: _run(name, main), argv=sys.argv, flags_parser=_parse_flags
    )
  except SystemExit as end:
    code = end.code
  except KeyboardInterrupt:
    _say(name, "interrupted; the same command goes on from here")
    code = 130
  except Exception as error:
    if "--traceback" in sys.argv:
      raise
    _say(name, f"error: {one_line(error)}")
  sys.exit(code)


def call(stage: Callable, config: dict, workdir: str, **more: Any) -> None:
  """Calls a stage with those sections of the config that it takes.

  Raises:
    ValueError: the config has no section that the stage cannot do without.
  """
  takes = inspect.signature(stage).parameters
  sections = {name: config[name] for name in config if name in takes} | more
  for name, parameter in takes.items():
    needed = (
      parameter.kind is parameter.KEYWORD_ONLY
      and parameter.default is parameter.empty
    )
    if needed and name not in sections:
      raise ValueError(
        f"the config has no section {name!r}, which this stage needs: it has "
        f"{', '.join(config)}"
      )
  stage(workdir, **sections)


def one_line(error: Exception) -> str:
  """An error as one line, with its type where the message needs it."""
  text = " ".join(str(error).split())
  expected = (
    ValueError,
    OSError,
    RuntimeError,
    FloatingPointError,  # a loss or an image that is not finite
    ImportError,  # an extra that is not installed
    flags.Error,
  )
  if isinstance(error, expected) and text:
    return text
  parts = [type(error).__name__, *([text] if text else [])]
  return f"{': '.join(parts)} (--traceback shows where)"


def config_path(path: str) -> str:
  """The path itself where it exists, else the installed config of that name.

  Raises:
    FileNotFoundError: neither exists; lists the installed ones.
  """
  if os.path.exists(path):
    return path
  folder = _config_folder()
  if (folder / path).is_file():
    return str(folder / path)
  names = sorted(p.name for p in folder.glob("[a-z]*.py"))
  raise FileNotFoundError(
    f"config file {path} does not exist, neither here nor among the installed"
    f" ones ({', '.join(names)})"
  )


def load_config(spec: str) -> ml_collections.ConfigDict:
  """The config of `FILE.py[:args]`.

  Raises:
    ValueError: the file has no get_config, or refuses its arguments.
  """
  path, colon, arg = spec.partition(":")
  path = config_path(path)
  module_spec = importlib.util.spec_from_file_location("experiment", path)
  if module_spec is None or module_spec.loader is None:
    raise ValueError(f"config file {path} is no Python file (.py)")
  module = importlib.util.module_from_spec(module_spec)
  module_spec.loader.exec_module(module)
  if not hasattr(module, "get_config"):
    raise ValueError(f"config file {path} defines no get_config(arg)")
  return module.get_config(*([arg] if colon else []))


def check_overrides(
  config: ml_collections.ConfigDict, names: Sequence[str]
) -> None:
  """Refuses overrides of keys that the config does not have.

  Raises:
    ValueError: names the unknown key, the nearest one and the options.
  """
  for name in names:
    node, path = config, "config"
    for key in name.split("."):
      if not isinstance(node, ml_collections.ConfigDict):
        raise ValueError(f"--config.{name}: {path} is a value, not a section")
      if key not in node:
        raise ValueError(args.unknown(f"{path} key", key, node))
      node, path = node[key], f"{path}.{key}"


def _describe(name: str, doc: str | None) -> None:
  """Makes `--help` print the program's docstring and its flags."""
  sys.modules["__main__"].__doc__ = (
    f"{(doc or '').strip()}\n\n"
    f"Usage: diffmem-{name} --config=FILE.py[:args] --workdir=DIR"
    " [--config.section.key=value ...]\n"
  )
  for flag in _FLAGS:
    flags.FLAGS.register_key_flag_for_module(sys.argv[0], flags.FLAGS[flag])


def _parse_flags(argv: list[str]) -> list[str]:
  """Parses all flags; checks the names of overrides before their values."""
  spec = _config_spec(argv)
  if spec is not None:
    names = [
      re.sub(r"^--?(no)?config\.", "", arg).partition("=")[0]
      for arg in argv
      if re.match(r"--?(no)?config\.", arg)
    ]
    check_overrides(load_config(spec), names)
  rest = flags.FLAGS(argv)
  if spec is None:
    raise ValueError(
      "--config is missing: give an experiment, say --config=digits.py"
    )
  if not flags.FLAGS.workdir:
    raise ValueError(
      "--workdir is missing: give the run's folder, say --workdir=runs/digits"
    )
  if rest[1:]:
    raise ValueError(
      f"unexpected argument {rest[1]!r}: settings are flags, --name=value"
    )
  _check_processes()
  return rest


def _check_processes() -> None:
  """Refuses numbers of processes that cannot be."""
  count, index = flags.FLAGS.processes, flags.FLAGS.process
  if flags.FLAGS.distributed:
    for name in ("processes", "process", "coordinator"):
      if flags.FLAGS[name].present:
        raise ValueError(
          f"--distributed takes --{name} from the cluster: give one or the "
          "other"
        )
    return
  if count > 1 and index is None:
    raise ValueError(
      f"--process is missing: give each of {count} processes its number, 0 to "
      f"{count - 1}"
    )
  if index is not None and not 0 <= index < count:
    raise ValueError(
      f"--process={index} must lie between 0 and {count - 1}, there are "
      f"--processes={count}"
    )
  address = flags.FLAGS.coordinator
  if address is not None and not re.fullmatch(r".+:\d+", address):
    raise ValueError(
      f"--coordinator={address} must be HOST:PORT, say node0:12345"
    )


def _config_spec(argv: list[str]) -> str | None:
  """The value of --config, in either spelling."""
  for i, arg in enumerate(argv):
    if re.match(r"--?config=", arg):
      return arg.partition("=")[2]
    if arg in ("-config", "--config") and i + 1 < len(argv):
      return argv[i + 1]
  return None


def _installed_config(argv: list[str]) -> list[str]:
  """Replaces the name of an installed config by its path."""
  spec = _config_spec(argv)
  if spec is None:
    return argv
  path, colon, arg = spec.partition(":")
  try:
    found = config_path(path)
  except FileNotFoundError:
    return argv
  return [
    a.replace(spec, found + colon + arg) if spec in a else a for a in argv
  ]


def _config_folder() -> pathlib.Path:
  """The folder of `diffmem.configs`, or the checkout's when not installed."""
  found = importlib.util.find_spec("diffmem.configs")
  if found is not None and found.submodule_search_locations:
    return pathlib.Path(next(iter(found.submodule_search_locations)))
  return pathlib.Path(diffmem.__file__).parent.parent / "configs"


def _run(name: str, main: Callable[[dict, str], None]) -> int:
  """Sets up logging and the compilation cache, then calls the stage."""
  absl_logging.get_absl_handler().setFormatter(
    logging.Formatter("%(asctime)s %(message)s", "%H:%M:%S")
  )
  if not flags.FLAGS["verbosity"].present:
    absl_logging.set_verbosity(absl_logging.WARNING)  # of other libraries
  logging.getLogger("diffmem").setLevel(logging.INFO)
  if not flags.FLAGS.traceback:
    # Libraries log the tracebacks of errors that they also raise.
    absl_logging.set_verbosity(absl_logging.FATAL)
  _cache_compilations()
  config = flags.FLAGS.config.to_dict()
  folder = _folder(config, flags.FLAGS.workdir)
  with _joined(name, config, folder):
    main(config, folder)
  return 0


@contextlib.contextmanager
def _joined(name: str, config: dict, folder: str) -> Iterator[None]:
  """Among the other processes of the run, which learn how this one ends."""
  from diffmem import processes

  given: dict[str, Any] = {
    "index": flags.FLAGS.process or 0,
    "count": flags.FLAGS.processes,
    "coordinator": flags.FLAGS.coordinator,
  }
  if flags.FLAGS.distributed:
    from diffmem.processes import cluster

    given = cluster.detect()
  about = {
    "program": f"diffmem-{name}",
    "version": diffmem.__version__,
    "coordinator": given["coordinator"],
    "config": config,
  }
  try:
    processes.join(folder, about=about, **given)
    yield
  except KeyboardInterrupt:
    processes.leave("interrupted")
    raise
  except Exception as error:
    processes.leave(one_line(error))
    raise
  processes.leave()


def _folder(config: dict, workdir: str) -> str:
  """Where stages work: the workdir, or in it the folder of a shadow model."""
  from diffmem import buckets
  from diffmem import workdir as folders

  root = folders.of(workdir, config.get("data", {}))
  if isinstance(root, buckets.Path):
    buckets.check(root)
  return os.fspath(root)


def _cache_compilations() -> None:
  """Keeps compiled programs between runs, where the folder is writable."""
  default = pathlib.Path.home() / ".cache" / "diffmem"
  folder = os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(default))
  if "://" not in folder:
    with contextlib.suppress(OSError):
      os.makedirs(folder, exist_ok=True)
    if not os.access(folder, os.W_OK):
      del os.environ["JAX_COMPILATION_CACHE_DIR"]
  os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.2")
  # A run that was killed may leave half an entry: it is compiled again.
  warnings.filterwarnings(
    "ignore", message="Error (reading|writing) persistent compilation cache"
  )


def _say(name: str, text: str) -> None:
  print(f"diffmem-{name}: {text}", file=sys.stderr)
