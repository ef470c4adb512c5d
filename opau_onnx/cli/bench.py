"""``opau-bench``: how fast the compiled activation is next to its peers, in one run."""

# As in export.py: no heavy import up here, and no `from __future__ import annotations`.

import re
import shlex
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Any

import typer

from opau_onnx.bench.names import DTYPES, SUBJECTS
from opau_onnx.cli.common import fail, failing, steps
from opau_onnx.cli.options import Report, Verbose, Version

_STYLE: Any = "rich" if sys.stdout.isatty() else None
app = typer.Typer(add_completion=False, rich_markup_mode=_STYLE, pretty_exceptions_enable=False)

_WHAT, _HOW, _OUT = "What is measured", "How", "Output"
_LARGEST = 2**31
QUICK = {"rounds": 3, "sample_seconds": 0.001, "subject_seconds": 0.5, "fewest": 2}
QUICK_SIZES = "2^10,2^16,2^20"


@app.command(context_settings={"help_option_names": ["-h", "--help"]})
def bench(
    sizes: Annotated[
        str | None,
        typer.Option(
            help="Numbers of elements: 1000, 64Ki, 2^20, 2^10..2^24 (all powers). Default: 2^10 to 2^24, every second.",
            rich_help_panel=_WHAT,
        ),
    ] = None,
    dtypes: Annotated[
        str | None, typer.Option(help="Default: float32,float16,bfloat16,float64.", rich_help_panel=_WHAT)
    ] = None,
    subjects: Annotated[str | None, typer.Option(help=f"Default: all of {','.join(SUBJECTS)}.", rich_help_panel=_WHAT)] = None,
    batches: Annotated[
        str | None, typer.Option(help="Of LeNet with HP-1 and with ReLU; 0 for none. Default: 1,32,256.", rich_help_panel=_WHAT)
    ] = None,
    basis: Annotated[str, typer.Option(help="Basis of the activation.", rich_help_panel=_WHAT)] = "hermite_e",
    form: Annotated[str, typer.Option(help="Form of its denominator.", rich_help_panel=_WHAT)] = "abs_terms",
    degrees: Annotated[str, typer.Option(help="Its degrees, K,L.", rich_help_panel=_WHAT)] = "5,4",
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.", rich_help_panel=_HOW)] = "auto",
    threads: Annotated[
        int | None, typer.Option(help="Default: the number of physical cores.", min=1, max=1024, rich_help_panel=_HOW)
    ] = None,
    rounds: Annotated[
        int | None, typer.Option(help="Turns of each subject. Default: 15.", min=1, max=10_000, rich_help_panel=_HOW)
    ] = None,
    quick: Annotated[
        bool, typer.Option("--quick", help="A first look: few sizes, float32, 3 turns, no torch.compile.", rich_help_panel=_HOW)
    ] = False,
    report: Report = None,
    markdown: Annotated[Path | None, typer.Option(help="Write the tables.", rich_help_panel=_OUT)] = None,
    plot: Annotated[Path | None, typer.Option(help="Write a PNG (needs matplotlib).", rich_help_panel=_OUT)] = None,
    verbose: Verbose = False,
    version: Version = False,
) -> None:
    """Time the compiled activation against onnxruntime's own, its function body, and PyTorch.

    All subjects take turns in one process; the medians' ratios are what counts. Exit codes: 0 measured; 2 usage error, no such
    device, or interrupted.
    """
    quickly = {"sizes": QUICK_SIZES, "dtypes": "float32", "subjects": ",".join(k for k in SUBJECTS if k != "compile")}
    normal = {"sizes": ",".join(f"2^{n}" for n in range(10, 25, 2)), "dtypes": ",".join(DTYPES), "subjects": ",".join(SUBJECTS)}
    defaults = quickly if quick else normal
    fields = {
        "sizes": parse_sizes(defaults["sizes"] if sizes is None else sizes),
        "dtypes": _names("--dtypes", defaults["dtypes"] if dtypes is None else dtypes, DTYPES),
        "subjects": _names("--subjects", defaults["subjects"] if subjects is None else subjects, SUBJECTS),
        "batches": _batches("1,256" if quick else "1,32,256") if batches is None else _batches(batches),
        "threads": threads,
        "device": _names("--device", device, ("auto", "cpu", "cuda"))[0],
        "command": shlex.join(["opau-bench", *sys.argv[1:]]),
    }
    plan = {**(QUICK if quick else {}), **({} if rounds is None else {"rounds": rounds, "fewest": min(5, rounds)})}
    outputs = {"--report": report, "--markdown": markdown, "--plot": plot}
    _check_outputs(outputs)
    content = _run(fields, plan, (basis, form, _degrees(degrees)), outputs, verbose=verbose)
    from opau_onnx.cli.bench_output import show

    show(content, [path for path in outputs.values() if path is not None], verbose=verbose)


def _run(
    fields: dict[str, Any], plan: dict[str, Any], config: tuple[str, str, tuple[int, int]], outputs: dict[str, Path | None], *,
    verbose: bool,
) -> dict[str, Any]:  # fmt: skip
    """Measure and write; errors of ours and Ctrl-C end the command with a message, code 2."""
    with steps(verbose=verbose) as step, failing("a file", verbose=verbose):
        from opau_onnx.core.spec import Config
        from opau_onnx.native.library import say_if_missing

        say_if_missing()
        activation = Config(*config)
        step("loading PyTorch and onnxruntime")
        from opau_onnx.bench.run import Settings, run
        from opau_onnx.bench.timing import Plan
        from opau_onnx.cli.bench_output import write

        content = run(Settings(config=activation, plan=Plan(**plan), **fields), step)
        write(content, outputs)
        return content


def parse_sizes(text: str) -> tuple[int, ...]:
    """Numbers of elements, ascending, each once."""
    found: set[int] = set()
    for part in text.split(","):
        first, dots, last = part.strip().partition("..")
        if dots:
            powers = [_number(end).bit_length() - 1 for end in (first, last)]
            if [2**p for p in powers] != [_number(first), _number(last)] or powers[0] > powers[1]:
                fail(f"--sizes holds {part.strip()!r}; expected a range of powers of two, the smaller first, e.g. 2^10..2^24")
            found.update(2**p for p in range(powers[0], powers[1] + 1))
        else:
            found.add(_number(first))
    return tuple(sorted(found))


def _number(text: str) -> int:
    match = re.fullmatch(r"(\d{1,10})(?:\^(\d{1,2})|([KMG]i))?", text.strip())
    value = 0
    if match:
        value = int(match[1]) ** int(match[2] or 1) << {"Ki": 10, "Mi": 20, "Gi": 30}.get(match[3], 0)
    if not 1 <= value <= _LARGEST:
        fail(f"--sizes holds {text.strip()!r}; expected whole numbers from 1 to 2^31 with commas: 1000, 64Ki, 2^20, 2^10..2^24")
    return value


def _names(option: str, text: str, allowed: Iterable[str]) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(part.strip() for part in text.split(",")))
    for name in names:
        if name not in allowed:
            fail(f"{option} holds {name!r}; expected {'one' if option == '--device' else 'some'} of {', '.join(allowed)}")
    return names


def _batches(text: str) -> tuple[int, ...]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and len(part) < 6 for part in parts):
        fail(f"--batches is {text!r}; expected whole numbers below 100,000, e.g. 1,32,256, or 0 for no whole models")
    return tuple(sorted({int(part) for part in parts} - {0}))


def _degrees(text: str) -> tuple[int, int]:
    parts = [part.strip() for part in text.split(",")]
    if len(parts) != 2 or not all(part.isdecimal() and len(part) < 4 for part in parts):
        fail(f"--degrees is {text!r}; expected two whole numbers, e.g. 5,4")
    return int(parts[0]), int(parts[1])


def _check_outputs(outputs: dict[str, Path | None]) -> None:
    """Refuse before the measurement what could not be written after it."""
    import importlib.util
    import os

    for option, path in outputs.items():
        if path is None:
            continue
        if path.is_dir():
            fail(f"{option} is {str(path)!r}, which is a folder; expected a file's name")
        if not path.parent.is_dir() or not os.access(path.parent, os.W_OK):
            fail(f"{option} is {str(path)!r}, but the folder {str(path.parent)!r} does not exist or cannot be written")
        if option == "--plot" and path.suffix.lower() != ".png":
            fail(f"--plot is {str(path)!r}; expected a name that ends in .png")
        if option == "--plot" and importlib.util.find_spec("matplotlib") is None:
            fail("--plot needs matplotlib: pip install 'opau-onnx[plot]'")


def main() -> None:
    """Entry point of the command."""
    app()
