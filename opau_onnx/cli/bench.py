"""``opau-bench``: how fast the compiled activation is next to its peers, in one run."""

# As in export.py: no heavy import up here, and no `from __future__ import annotations`.

import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

from opau_onnx.bench.names import DTYPES, SUBJECTS
from opau_onnx.cli.bench_options import FULL, QUICK, BenchOptions, Outputs
from opau_onnx.cli.common import HELP, command_app, fail, failing, steps
from opau_onnx.cli.options import Report, Verbose, Version, option

app = command_app()

_SUBJECTS, _MEASUREMENT, _OUT = "Subjects", "Measurement", "Output"
_LARGEST = 2**31


@app.command(context_settings=HELP)
def bench(
    sizes: Annotated[
        str | None,
        option(
            "Numbers of elements: 1000, 64Ki, 2^20, 2^10..2^24 (all powers). Default: 2^10 to 2^24, every second.", _SUBJECTS
        ),
    ] = None,
    dtypes: Annotated[str | None, option("Default: float32,float16,bfloat16,float64.", _SUBJECTS)] = None,
    subjects: Annotated[str | None, option(f"Default: all of {','.join(SUBJECTS)}.", _SUBJECTS)] = None,
    batches: Annotated[
        str | None, option("Of LeNet with HP-1 and with ReLU; 0 for none. Default: 1,32,256.", _SUBJECTS)
    ] = None,
    basis: Annotated[str, option("Basis of the activation.", _SUBJECTS)] = "hermite_e",
    form: Annotated[str, option("Form of its denominator.", _SUBJECTS)] = "abs_terms",
    degrees: Annotated[str, option("Its degrees, K,L.", _SUBJECTS)] = "5,4",
    device: Annotated[str, option("auto, cpu or cuda.", _MEASUREMENT)] = "auto",
    threads: Annotated[int | None, option("Default: the number of physical cores.", _MEASUREMENT, min=1, max=1024)] = None,
    rounds: Annotated[int | None, option("Turns of each subject. Default: 15.", _MEASUREMENT, min=1, max=10_000)] = None,
    quick: Annotated[
        bool, option("A first look: few sizes, float32, 3 turns, no torch.compile.", _MEASUREMENT, "--quick")
    ] = False,
    report: Report = None,
    markdown: Annotated[Path | None, option("Write the tables.", _OUT)] = None,
    plot: Annotated[Path | None, option("Write a PNG (needs matplotlib).", _OUT)] = None,
    verbose: Verbose = False,
    version: Version = False,
) -> None:
    """Time the compiled activation against onnxruntime's own, its function body, and PyTorch.

    All subjects take turns in one process; the medians' ratios are what counts. Exit codes: 0 measured; 2 usage error, no such
    device, or interrupted.
    """
    defaults = QUICK if quick else FULL
    options = BenchOptions(
        config=(basis, form, _degrees(degrees)),
        sizes=parse_sizes(defaults.sizes if sizes is None else sizes),
        dtypes=_names("--dtypes", defaults.dtypes if dtypes is None else dtypes, DTYPES),
        subjects=_names("--subjects", defaults.subjects if subjects is None else subjects, SUBJECTS),
        batches=_batches(defaults.batches if batches is None else batches),
        threads=threads,
        device=_names("--device", device, ("auto", "cpu", "cuda"))[0],
        plan=defaults.plan if rounds is None else replace(defaults.plan, rounds=rounds, fewest=min(5, rounds)),
    )
    outputs = Outputs(report, markdown, plot)
    outputs.check()
    content = _run(options, outputs, verbose=verbose)
    from opau_onnx.cli.bench_output import show

    show(content, outputs.paths, verbose=verbose)


def _run(options: BenchOptions, outputs: Outputs, *, verbose: bool) -> dict[str, Any]:
    """Measure and write; errors of ours and Ctrl-C end the command with a message, code 2."""
    with steps(verbose=verbose) as step, failing("a file", verbose=verbose):
        from opau_onnx.native.library import say_if_missing

        say_if_missing()
        step("loading PyTorch and onnxruntime")
        from opau_onnx.bench.run import run
        from opau_onnx.cli.bench_output import write

        content = run(options.settings(), step)
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


def main() -> None:
    """Entry point of the command."""
    app()
