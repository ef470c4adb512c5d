"""Console output and report of ``opau-loadtest``."""

from __future__ import annotations

from collections.abc import Mapping

from rich.console import Console
from rich.markup import escape

from opau_onnx.cli.common import console, table
from opau_onnx.loadtest.recorder import CORRECT, OUTCOMES
from opau_onnx.loadtest.result import LoadResult


def show(result: LoadResult) -> None:
    """Print the load, its figures, and each outcome that is an error with its reasons."""
    out = console()
    for line in (_server(result), _load(result), _reference(result)):
        out.print(escape(line), highlight=False, soft_wrap=True)
    _figures(out, result)
    _latencies(out, result)
    _errors(out, result)
    if result.indistinguishable:
        text = f"{result.indistinguishable} of {result.pool} expected responses are within the tolerance of another request's:"
        out.print(f"[bold yellow]warning:[/] {text} swapping those is not detected", highlight=False, soft_wrap=True)
    if result.stopped:
        text = f"{result.stopped}; {result.unfinished:,} requests in flight are not counted"
        out.print(f"[bold yellow]stopped:[/] {escape(text)}", highlight=False, soft_wrap=True)
    out.print("all responses were correct" if result.ok else "[bold red]NOT all responses were correct[/]", highlight=False)


def _server(result: LoadResult) -> str:
    server = " ".join(str(result.server.get(key, "")) for key in ("name", "version")).strip()
    versions = ", ".join(map(str, result.model.get("versions", ()) or ()))
    said = result.model.get("parameters")
    more = "; ".join(f"{key} {value}" for key, value in sorted(said.items())) if isinstance(said, Mapping) else ""
    version = f" version {versions}" if versions else ""
    return f"{result.url}: {server or 'a server without a name'}, model {result.model.get('name')}{version}" + (
        f" ({more})" if more else ""
    )


def _load(result: LoadResult) -> str:
    settings = result.settings
    if settings.rate is None:
        loop = f"closed loop, {settings.connections} clients"
    else:
        loop = f"open loop, {settings.rate:g} requests/s ({settings.arrivals}), at most {settings.connections} at once"
    times = f"warm-up {settings.warmup_s:g} s, measured {result.seconds:.2f} s"
    return f"{loop}; {times}; {result.pool} distinct requests: {result.inputs}"


def _reference(result: LoadResult) -> str:
    return f"expected: {result.expected}; tolerance: {result.tolerance}"


def _figures(out: Console, result: LoadResult) -> None:
    rows = table(out, "requests", "correct", "requests/s", "rows/s", "sent", "received")
    counts = f"{result.requests:,}", f"{result.counts.get(CORRECT, 0):,}"
    rates = f"{result.requests_per_s:,.1f}", f"{result.rows_per_s:,.1f}"
    rows.add_row(*counts, *rates, _bytes(result.bytes_sent), _bytes(result.bytes_received))
    out.print()
    out.print(rows, highlight=False)


def _latencies(out: Console, result: LoadResult) -> None:
    rows = table(out, "milliseconds", *result.latency_ms)
    since = "sent" if result.send_delay_ms is None else "due"
    rows.add_row(f"response, since {since}", *(_number(value) for value in result.latency_ms.values()))
    if result.send_delay_ms is not None:
        rows.add_row("sent, since due", *(_number(value) for value in result.send_delay_ms.values()))
    out.print()
    out.print(rows, highlight=False)
    out.print()


def _errors(out: Console, result: LoadResult) -> None:
    for outcome, reasons in result.errors.items():
        measured = result.counts.get(outcome, 0)
        warming = result.warmup_counts.get(outcome, 0)
        count = f"{measured:,}" + (f" (and {warming:,} in the warm-up)" if warming else "")
        meaning = f" ({OUTCOMES[outcome]})" if outcome in OUTCOMES else ""
        out.print(f"[bold red]{escape(outcome)}:[/] {count}{meaning}", highlight=False, soft_wrap=True)
        for reason, times in reasons.items():
            out.print(f"  {times:,} × {escape(reason or 'without a reason')}", highlight=False, soft_wrap=True)


def _number(value: float) -> str:
    return "-" if value != value else f"{value:.3f}" if value < 100 else f"{value:.0f}"


def _bytes(count: int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if count < 10_000:
            return f"{count:,.0f} {unit}"
        count //= 1024
    return f"{count:,.0f} GiB"
