"""The `aegis` command: one subcommand for each entry point of the group `aegis.commands`.

A subcommand is a function: its typed arguments become options, its docstring the help. An entry point may name, in
brackets, the extra that its function needs: `record = "aegis_sim.commands:record [sim]"`. A name of two words, such as
"data inspect", is a command of a group. Command modules import what is heavy inside the function, so `aegis --help`
stays quick and works whatever is installed.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any

import tyro

GROUP = "aegis.commands"
DESCRIPTION = "Teach a vision-language model to move a robot without making it forget what it knows."
USAGE_ERROR = 2
INTERRUPTED = 130  # 128 + SIGINT, the shell's convention
EXPECTED_ERRORS = (
    ValueError,
    OSError,
    FloatingPointError,
    MemoryError,
)  # ObservationError is a ValueError; FileNotFoundError, ConnectionError are OSErrors


class MissingExtraError(Exception):
    """A command needs an optional package that is not installed; the message says how to install it."""

    def __init__(self, command: EntryPoint, package: str) -> None:
        advice = f'pip install "aegis-policy[{",".join(command.extras)}]"'
        if "sim" in command.extras:
            advice += " && pip install --no-deps robosuite==1.5.2"
        super().__init__(f"'aegis {command.name}' needs the package '{package}': {advice}")


def main(args: Sequence[str] | None = None) -> None:
    """Run one command; an expected failure ends the process with one line on stderr (a traceback with AEGIS_DEBUG=1).

    Args:
        args: the words after `aegis`; None takes them from the command line.

    Raises:
        SystemExit: 2 for a wrong argument, an expected error or a missing extra, 130 for an interrupt.
    """
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    for chatty in ("httpx", "OpenGL"):  # every single request; every missing accelerator
        logging.getLogger(chatty).setLevel(logging.WARNING)
    try:
        _run(list(sys.argv[1:] if args is None else args))
    except (MissingExtraError, *EXPECTED_ERRORS) as error:
        if os.environ.get("AEGIS_DEBUG") == "1":
            raise
        message = " ".join(str(error).split()) or type(error).__name__
        sys.stderr.write(f"aegis: error: {message}\n")
        raise SystemExit(USAGE_ERROR) from None
    except KeyboardInterrupt:
        raise SystemExit(INTERRUPTED) from None


def _run(args: list[str]) -> None:
    functions, missing = {}, {}
    for command in sorted(entry_points(group=GROUP), key=lambda command: command.name):
        try:
            functions[command.name] = _explain_missing(command, command.load())
        except (ImportError, AttributeError) as error:  # one broken command must not take the others with it
            missing[command.name] = _explanation(command, error)
            functions[command.name] = _placeholder(missing[command.name])
    for name, reason in missing.items():
        if args[: len(name.split())] == name.split():  # its arguments are not known, so tyro could not read them
            raise reason
    _app(functions).cli(prog="aegis", description=DESCRIPTION, args=args)


def _app(functions: dict[str, Callable[..., Any]]) -> tyro.extras.SubcommandApp:
    app = tyro.extras.SubcommandApp()
    groups: dict[str, tyro.extras.SubcommandApp] = {}
    for name, function in functions.items():
        group, _, rest = name.partition(" ")
        if not rest:
            app.command(name=name)(function)
            continue
        if group not in groups:
            groups[group] = tyro.extras.SubcommandApp()
            app.command(groups[group], name=group, help=f"Commands about {group}: aegis {group} --help.")
        groups[group].command(name=rest)(function)
    return app


def _explain_missing(command: EntryPoint, function: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(function)
    def run(*args: Any, **kwargs: Any) -> None:
        try:
            function(*args, **kwargs)
        except ModuleNotFoundError as error:
            raise _explanation(command, error) from error

    return run


def _explanation(command: EntryPoint, error: Exception) -> Exception:
    """How to install the command's extra, or, where a missing extra cannot be the reason, the error itself."""
    package = error.name if isinstance(error, ModuleNotFoundError) else None
    if not command.extras or not package or package.split(".")[0].startswith("aegis_"):
        return error
    return MissingExtraError(command, package)


def _placeholder(reason: Exception) -> Callable[[], None]:
    def unavailable() -> None:
        raise reason

    unavailable.__doc__ = f"Not available: {reason}"
    return unavailable
