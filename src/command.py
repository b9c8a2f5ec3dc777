"""What every command shares: a Hydra application whose ``--help`` helps and whose errors are sentences.

A command is a function of one composed config, ``@command("NAME")`` around it, and ``configs/NAME.yaml``. The leading
comment of that file is the command's help text; the groups of its defaults list are the things a user can swap.

What is added to ``hydra.main``:

- ``model=PATH`` accepts a local folder, a hub id or a ``.gguf`` file besides the names in ``configs/model/``;
- a bare flag such as ``--list`` is the setting ``list=true``;
- ``schema=NAME`` is ``schema.source=NAME``: what the code reads, of ``configs/schema`` or elsewhere, is no group;
- ``preflight=true``, or true for any other group that is switched on and off, is its setting ``enabled``;
- ``--local_rank=N``, which the deepspeed launcher adds, is left out;
- a value that Hydra's grammar can't read, such as Chinese text, is taken as the text it is;
- ``${…}`` in a prompt, as in code, is no interpolation;
- `UserError`, an engine that is down and mistakes in overrides end in one sentence and exit status 2. Everything else
  keeps its traceback, because it is our mistake. ``HYDRA_FULL_ERROR=1`` shows the traceback of both.
"""

import difflib
import functools
import os
import re
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationKeyError, MissingMandatoryValue

from src.errors import UserError
from src.strategies.launch import agreed, start_time, this_rank

ROOT = Path(__file__).resolve().parents[1]
CONFIGS = ROOT / "configs"

SWITCHES = {"preflight"}  # config groups with a setting `enabled`: preflight=true means preflight.enabled=true
SOURCES = {"schema"}  # folders whose files are no groups: schema=NAME means schema.source=NAME
TEXTS = {"prompt", "instruction", "input", "system", "text"}  # settings that hold what people write

QUOTES = "'\""

Task = Callable[[DictConfig], Any]

OmegaConf.register_new_resolver("project_root", lambda: str(ROOT), replace=True)
OmegaConf.register_new_resolver("user_cache", lambda: str(Path.home() / ".cache" / "knowlm-lightning"), replace=True)


def _run_folder(runs: str, new: str, ckpt_path: str | None) -> str:
    """Folder of a run: a new one, or that of the run which goes on; the same in all processes of a launch."""

    def folder() -> str:
        if ckpt_path is None:
            return str(Path(runs, new))
        from src.callbacks.resume import run_folder  # takes seconds to import

        return run_folder(runs, new, ckpt_path)

    return agreed(f"run_folder/{runs}/{ckpt_path}", folder)


OmegaConf.register_new_resolver("run_folder", _run_folder, replace=True)
OmegaConf.register_new_resolver("start_time", start_time, replace=True, use_cache=True)


def command(config_name: str) -> Callable[[Task], Callable[[], None]]:
    """Make a Hydra application of ``configs/<config_name>.yaml`` out of a function of the composed config."""

    def decorate(task: Task) -> Callable[[], None]:
        def main() -> None:
            arguments = sys.argv[1:]
            if "--help" in arguments or "-h" in arguments:
                print(help_text(config_name, sys.argv[0]))
                return
            sys.argv[1:] = list(rewrite_arguments(arguments))
            if this_rank():
                # Process 0 writes the composed config; all write into one log.
                sys.argv += ["hydra.output_subdir=null", f"hydra.job.name={config_name}"]
            before = os.environ.get("HYDRA_FULL_ERROR")
            show_traceback = before == "1"
            os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then hands its exceptions to us instead of printing them

            @functools.wraps(task)
            def guarded(cfg: DictConfig) -> Any:
                os.environ["HYDRA_FULL_ERROR"] = before or "0"  # for processes that the task starts
                try:
                    if is_sweep_job():  # which may fail without ending the others, see src/sweeps.py
                        return task(cfg)
                    with _sentences(config_name, show_traceback):
                        return task(cfg)
                finally:
                    os.environ["HYDRA_FULL_ERROR"] = "1"

            application = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name=config_name)
            with _sentences(config_name, show_traceback):
                application(guarded)()

        return main

    return decorate


def is_sweep_job() -> bool:
    """Whether this process runs one of the jobs of a sweep."""
    return HydraConfig.initialized() and not OmegaConf.is_missing(HydraConfig.get().job, "num")


@contextmanager
def _sentences(config_name: str, show_traceback: bool) -> Iterator[None]:
    """Turn a mistake of the user's into ``error: <sentence>`` and exit status 2, and Ctrl-C into exit status 130."""
    try:
        yield
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        sys.exit(130)
    except Exception as error:
        message = None if show_traceback else sentence(error, config_name)
        if message is None:
            raise
        where = f"[rank {rank} on {socket.gethostname()}] " if (rank := this_rank()) else ""
        print(f"error: {where}{message}", file=sys.stderr)
        sys.exit(next((link.exit_status for link in _causes(error) if isinstance(link, UserError)), 2))


def rewrite_arguments(arguments: list[str]) -> Iterator[str]:
    """Turn ``--flag`` into ``flag=true``, ``model=<path>`` into ``model=custom model.path=<path>``, and quote texts."""
    hydra_flags = {"--multirun", "--cfg", "--resolve", "--package", "--run", "--info", "--config-path", "--config-name"}
    hydra_flags |= {"--config-dir", "--hydra-help", "--version", "--shell-completion", "--experimental-rerun"}
    zoo = set(group_options("model"))
    for argument in arguments:
        key, _, value = argument.partition("=")
        if key in TEXTS and "${" in value:
            value = _without_interpolations(value)
            yield f"{key}={value if value[0] == value[-1] and value[0] in QUOTES else _quoted(value)}"
            continue
        if key in {"--local_rank", "--local-rank"}:  # the deepspeed launcher's; LOCAL_RANK says the same
            continue
        if (name := key.removeprefix("--")) in SOURCES:
            if value.startswith("[") and value.endswith("]"):  # of types in any script
                value = f"[{','.join(_quoted(each.strip(chr(34) + chr(39) + ' ')) for each in value[1:-1].split(','))}]"
            key, argument = f"{name}.source", f"{name}.source={value}"
        if (name := key.removeprefix("--")) in SWITCHES and (value or "true").lower() in {"true", "false"}:
            yield f"{name}.enabled={value or 'true'}"
        elif argument.startswith("--") and key not in hydra_flags:
            yield f"{key[2:].replace('-', '_')}={value or 'true'}"
        elif key == "model" and value not in zoo and _is_model_path(path := value.strip("'\"")):
            yield "model=custom"
            yield f"model.path={_quoted(path)}"
        elif (
            value
            and not argument.startswith(("-", "~"))
            and not _is_override(key, argument, bool({"-m", "--multirun"} & set(arguments)))
        ):
            yield f"{key}={_quoted(value)}"
        else:
            yield argument


def _is_override(key: str, argument: str, multirun: bool) -> bool:
    """Whether Hydra's grammar takes the argument as meant; it knows no Chinese, and a comma makes a sweep of a text."""
    try:
        override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return False
    return not (key in TEXTS and not multirun and override.is_sweep_override())


def _is_model_path(value: str) -> bool:
    return Path(value).exists() or ("," not in value and ("/" in value or value.endswith(".gguf")))


def _without_interpolations(value: str) -> str:
    """A text as OmegaConf has to be given it so that ``${…}`` in it, as in code, stays what it is."""
    return re.sub(r"(\\*)\$\{", lambda found: found[1] * 2 + "\\${", value)


def _quoted(value: str) -> str:
    # within quotes Hydra takes a backslash as itself, except before a quote
    escaped = re.sub(r"(\\*)('|\Z)", lambda found: found[1] * 2 + ("\\'" if found[2] else ""), value)
    return f"'{escaped}'"


def group_options(group: str) -> list[str]:
    """Names of the YAML files of one config group, such as every model of the zoo."""
    return sorted(path.stem for path in (CONFIGS / group).glob("*.yaml"))


def help_text(config_name: str, program: str) -> str:
    """The leading comment of the root config, then its groups with the options of each."""
    text = (CONFIGS / f"{config_name}.yaml").read_text(encoding="utf-8")
    groups = []
    root = OmegaConf.load(CONFIGS / f"{config_name}.yaml")
    assert isinstance(root, DictConfig)
    for entry in root.get("defaults", []):
        if isinstance(entry, DictConfig):
            group, default = next(iter(entry.items()))
            group = str(group).removeprefix("optional ").removeprefix("override ").lstrip("/")
            if group not in {"hydra", "paths"} and group_options(group):
                groups.append(f"  {group}={default or '…'}: {', '.join(group_options(group))}")
    parts = [leading_comment(text)]
    if groups:
        parts.append("Groups (group=default: what it can be)\n" + "\n".join(groups))
    parts.append(
        "Any setting can be given as key=value.\n"
        f"  python {program} --cfg job     print the composed config and stop\n"
        "  -m key=a,b                     run once for each value (Hydra multirun)"
    )
    return "\n\n".join(parts)


def leading_comment(yaml_text: str) -> str:
    """The block of ``#`` lines a YAML file opens with, without the marks."""
    lines = []
    for line in yaml_text.splitlines():
        if not line.startswith("#"):
            break
        if not line.startswith("# @"):
            lines.append(line[1:].removeprefix(" "))
    return "\n".join(lines).strip()


def sentence(error: BaseException, config_name: str = "") -> str | None:
    """One sentence for a mistake of the user's, or None where the fault is not the user's."""
    from src.generation.engine import EngineDown

    for link in _causes(error):
        if isinstance(link, UserError):
            return str(link)
        if isinstance(link, EngineDown):
            return link.in_full()
    chain = list(_causes(error))
    if isinstance(error, ConfigCompositionException):
        return _composition_sentence(chain)
    if isinstance(error, InstantiationException) and (found := _instantiation_sentence(chain)):
        return found
    for link in chain:
        if isinstance(link, MissingMandatoryValue):
            key = re.search(r"full_key: (\S+)", str(link))
            return f"{key[1]} has no value: give {key[1]}=…" if key else _one_line(str(link))
        if isinstance(link, InterpolationKeyError):
            return _one_line(str(link))
    return _one_line(str(error)) if isinstance(error, HydraException) else None


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _composition_sentence(chain: list[BaseException]) -> str:
    text = "\n".join(str(link) for link in chain)
    if missing := re.search(r"Could not find '([^']+)/([^'/]+)'", text):
        group, option = missing.groups()
        options = group_options(group)
        return f"{group}={option} does not exist{_closest(option, options)}; choose one of: {', '.join(options)}"
    if unknown := re.search(r"Could not override '([^']+)'", text):
        key = unknown[1]
        parent = key.rpartition(".")[0] or "the top level"
        return (
            f"'{key}' is not a setting of this command: look for the right name under {parent} with --cfg job, "
            f"or put a plus before it (+{key}=…) to add it"
        )
    return _one_line(str(chain[0]))


def _instantiation_sentence(chain: list[BaseException]) -> str | None:
    text = str(chain[0])
    target = re.search(r"target '([^']+)'", text)
    key = re.search(r"full_key: (\S+)", text)
    cause = chain[1] if len(chain) > 1 else None
    if isinstance(cause, TypeError) and target and "argument" in str(cause):
        return f"{key[1] if key else 'the config'}: {target[1]} {_one_line(str(cause)).split('() ', 1)[-1]}"
    if isinstance(cause, (ImportError, AttributeError)) or "Error locating target" in text:
        return _one_line(text)
    return None


def _closest(name: str, options: list[str]) -> str:
    close = difflib.get_close_matches(name, options, n=1)
    return f" (did you mean {close[0]}?)" if close else ""


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()
