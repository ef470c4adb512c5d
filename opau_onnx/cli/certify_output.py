"""Console output of ``opau-certify``."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeRemainingColumn

from opau_onnx.certify.activations import Activation
from opau_onnx.certify.certificate import Judged
from opau_onnx.certify.sweep import CONDITION_LIMIT, Sweep, Worst
from opau_onnx.cli.common import console, table

Advance = Callable[[Activation], Callable[[str, int], None]]


@contextmanager
def progress(total: int) -> Iterator[Advance]:
    """A bar over all inputs of all activations, on a terminal."""
    columns = (TextColumn("{task.description}"), BarColumn(), TaskProgressColumn(), TimeRemainingColumn())
    out = console(stderr=True)
    with Progress(*columns, console=out, disable=not out.is_terminal, transient=True) as bar:
        task = bar.add_task("", total=total)
        seen: dict[tuple[tuple[str, ...], str], int] = {}

        def advance(activation: Activation) -> Callable[[str, int], None]:
            def update(dtype: str, done: int) -> None:
                seen[activation.nodes, dtype] = done
                bar.update(task, description=f"{activation.nodes[0]}, {dtype}", completed=sum(seen.values()))

            return update

        yield advance


def show(judged: Sequence[Judged], path: Path | None, *, quick: bool) -> None:
    """A table for each activation, the reasons of those that fail, the verdict."""
    out = console()
    for one in judged:
        names = ", ".join(one.activation.nodes[:4]) + (" ..." if len(one.activation.nodes) > 4 else "")
        out.print(f"\n{names}: {one.activation.config}", highlight=False)
        columns = "inputs", "seconds", f"largest error, condition < {CONDITION_LIMIT:g}", "at x", "of the bound used", "at x"
        rows = table(out, "dtype", *columns, "range policy", "instruction sets", "other kernels")
        for sweep in one.sweeps:
            rows.add_row(*_cells(sweep))
        out.print(rows, highlight=False)
        for reason in one.reasons:
            out.print(f"[bold red]not certified:[/] {reason}", highlight=False)
    passed = all(one.passed for one in judged)
    if quick:
        found = "nothing wrong was found" if passed else "faults were found"
        out.print(f"\na sample of the float32 inputs was tried, {found}: this is no certificate", highlight=False)
    else:
        out.print(f"\n{'certified' if passed else 'NOT certified'}; {path}", highlight=False, soft_wrap=True)


def _cells(sweep: Sweep) -> tuple[str, ...]:
    differ = [v.name for v in sweep.variants if v.differences or not v.compared]
    return (
        sweep.dtype,
        f"{sweep.inputs:,}" + ("" if sweep.complete else " (sample)"),
        f"{sweep.seconds:.1f}",
        *_worst(sweep.worst_conditioned),
        *(("-", "-") if sweep.share is None else (f"{sweep.share.ulp:.3g}", f"{sweep.share.x:.9g}")),
        "kept" if not sweep.violations else f"{sweep.violations:,} violations",
        "same bits" if not sweep.differences else f"{sweep.differences:,} differ",
        "same bits" if not differ else ", ".join(differ),
    )


def _worst(worst: Worst | None) -> tuple[str, str]:
    return ("-", "-") if worst is None else (f"{worst.ulp:.3g} ULP", f"{worst.x:.9g}")
