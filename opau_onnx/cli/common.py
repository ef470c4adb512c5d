"""Shared parts of all commands: exit codes, errors, a console that is plain when piped."""

from __future__ import annotations

import os
import re
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table

HELP = {"help_option_names": ["-h", "--help"]}
"""Context settings of every command."""
EQUAL, DIFFERENT, USAGE = 0, 1, 2
"""Exit codes: done (and equal); not equal; the command or a file is wrong, or something failed."""
_CONTROL = re.compile(r"\x1b\[[0-9;]*[A-Za-z]|[\x00-\x08\x0b-\x1f\x7f]")


def command_app(name: str | None = None) -> typer.Typer:
    """An application without commands; boxes on a terminal, plain help and errors when piped."""
    style: Any = "rich" if sys.stdout.isatty() else None
    return typer.Typer(
        name=name, add_completion=False, rich_markup_mode=style, pretty_exceptions_enable=False, context_settings=HELP
    )


def console(*, stderr: bool = False) -> Console:
    """A console; piped output is plain text without colours, wide enough not to fold tables."""
    stream = sys.stderr if stderr else sys.stdout
    if stream.isatty():
        return Console(file=stream)
    return Console(stderr=stderr, width=160, color_system=None, force_terminal=False)


def table(out: Console, *columns: str) -> Table:
    """A table; without lines where the output is piped."""
    if out.is_terminal:
        return Table(*columns)
    return Table(*columns, box=None, pad_edge=False, padding=(0, 2, 0, 0))


def fail(message: str, code: int = USAGE) -> NoReturn:
    """Print an error and end the command."""
    plain = _CONTROL.sub("", message)  # torch colours some messages, and a file's own texts may hold anything
    console(stderr=True).print(f"[bold red]error:[/] {_escaped(plain)}", highlight=False, soft_wrap=True)
    raise typer.Exit(code)


@contextmanager
def failing(place: object, *, verbose: bool, nothing: str = "written") -> Iterator[None]:
    """Within it, errors and Ctrl-C end the command with a message and code 2: code 1 would say that something differs, or that
    nothing could be shown.

    Args:
        place: the file or address that an error of the operating system without a name of its own is about.
        verbose: whether an error that should not happen is printed with its traceback.
        nothing: what was not done when the command is interrupted.
    """
    from opau_onnx._extras import explained
    from opau_onnx.errors import NotComparableError, OpauError

    try:
        yield
    except typer.Exit:
        raise
    except NotComparableError as error:
        console(stderr=True).print(f"NOT COMPARABLE: {error}", markup=False, highlight=False, soft_wrap=True)
        raise typer.Exit(DIFFERENT) from None
    except OpauError as error:
        fail(str(error))
    except OSError as error:
        fail(f"{error.filename or place}: {error.strerror or error}")
    except KeyboardInterrupt:
        fail(f"interrupted; nothing was {nothing}")
    except Exception as error:
        if isinstance(error, ModuleNotFoundError) and not _onnxruntime_problem():
            fail(explained(error))
        if "onnxruntime" in str(error) and (reason := _onnxruntime_problem()):
            fail(reason)
        if verbose:
            traceback.print_exc()
        fail(f"{type(error).__name__}: {error} (this should not happen; --verbose shows where)")


def _onnxruntime_problem() -> str | None:
    from opau_onnx.runtime.installation import problem

    return problem()


def sizes(text: str) -> tuple[int, ...]:
    """ "1,3,224,224" or "1x3x224x224" as numbers; empty where it is neither."""
    try:
        found = tuple(int(part) for part in text.replace("x", ",").split(","))
    except ValueError:
        return ()
    return found if all(n >= 1 for n in found) else ()


def _escaped(text: str) -> str:
    from rich.markup import escape

    return escape(text)


@contextmanager
def steps(*, verbose: bool) -> Iterator[Callable[[str], None]]:
    """A spinner that names the current step on a terminal; lines with ``verbose``; silent when piped."""
    out = console(stderr=True)
    if verbose:
        yield lambda step: out.print(f"{step} ...", highlight=False)
    elif out.is_terminal:
        with out.status("loading") as status:
            yield lambda step: status.update(step)
    else:
        yield lambda step: None


def check_output(option: str, path: Path | None) -> None:
    """Refuse before the work what could not be written after it."""
    if path is None:
        return
    if path.is_dir():
        fail(f"{option} is {str(path)!r}, which is a folder; expected a file's name")
    if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
        fail(f"{option} is {str(path)!r}, but the folder {str(path.parent)!r} does not exist or cannot be written")


def write_report(path: Path, record: Any) -> None:
    """Write a report as JSON; end the command where the file cannot be written."""
    from opau_onnx.io.atomic import write_json

    try:
        write_json(path, record)
    except OSError as error:
        fail(f"{path}: {error.strerror or error}")
