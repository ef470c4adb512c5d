"""Tables of a finished run, for the terminal and as Markdown."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from opau_onnx.bench.names import human

RATIOS = (
    ("kernel / Relu", "kernel", "relu"),
    ("Gelu / kernel", "gelu", "kernel"),
    ("function / kernel", "function", "kernel"),
    ("eager / kernel", "torch", "kernel"),
    ("compile / kernel", "compile", "kernel"),
    ("function / Relu", "function", "relu"),
)
"""Heading, subject, base: what is read from a run."""
BUSY = 0.1
"""Cores in use by other programs beyond which they disturb the measurement."""


class Rows(NamedTuple):
    """One table."""

    title: str
    head: list[str]
    lines: list[list[str]]


def about(content: dict[str, Any]) -> str:
    """One line: what ran on what."""
    m, s, a = content["machine"], content["settings"], content["activation"]
    where = m["gpu"] if s["device"] == "cuda" else f"{m['cpu']}, {s['threads']} thread{'s' if s['threads'] > 1 else ''}"
    kernel = f", kernel {m['instruction_set']}" if m["instruction_set"] and s["device"] == "cpu" else ""
    return (
        f"{a['basis']}, {a['form']}, degrees {tuple(a['degrees'])} on {where}{kernel}; onnxruntime {m['onnxruntime']}, "
        f"torch {m['torch']}, {content['date']}; medians of up to {s['rounds']} turns"
    )


def warnings(content: dict[str, Any]) -> list[str]:
    """Warnings about doubtful numbers."""
    used = content["machine"]["cores_used_by_others"]
    if used is not None and used > BUSY:
        return [f"other programs used {used:.2g} of the cores: do not trust these times, repeat on a quiet machine"]
    return []


def tables(content: dict[str, Any]) -> Iterator[Rows]:
    """All tables that have anything in them."""
    for dtype in dict.fromkeys(c["dtype"] for c in content["cases"]):
        cases = [c for c in content["cases"] if c["dtype"] == dtype]
        keys = [key for key in content["labels"] if any(key in c["results"] for c in cases)]
        if keys:
            yield _times(dtype, cases, keys, content["labels"])
            yield _ratios(dtype, cases)
    yield from _networks(content)
    ratios = [r for r in content["per_byte_over_float32"] if r["subject"] == "kernel"]
    if ratios:
        kinds = list(dict.fromkeys(r["dtype"] for r in ratios))
        sizes = list(dict.fromkeys(r["elements"] for r in ratios))
        found = {(r["elements"], r["dtype"]): r["ratio"] for r in ratios}
        lines = [[human(n), *(_ratio(found.get((n, kind))) for kind in kinds)] for n in sizes]
        yield Rows("kernel, time for each byte over float32's", ["elements", *kinds], lines)
    if any(g["met"] is not None for g in content["goals"]):
        yield Rows("goals", ["what", "measured", "goal", ""], [_goal(g) for g in content["goals"]])


def not_measured(content: dict[str, Any]) -> list[str]:
    """A line for each reason, with the subjects and dtypes that it kept out."""
    groups: dict[str, dict[str, list[str]]] = {}
    for record in content["not_measured"]:
        groups.setdefault(record["reason"], {}).setdefault(record["subject"], []).append(record["dtype"])
    return [
        "; ".join(f"{subject} ({', '.join(kinds)})" for subject, kinds in subjects.items()) + f": {reason}"
        for reason, subjects in groups.items()
    ]


def markdown(content: dict[str, Any]) -> str:
    """The whole report."""
    parts = ["# The compiled op against its peers", f"`{content['command']}`: {about(content)}.", METHOD]
    parts += [f"**Warning:** {w}." for w in warnings(content)]
    for rows in tables(content):
        lines = [rows.head, ["---"] * len(rows.head), *rows.lines]
        parts.append(f"## {rows.title}\n\n" + "\n".join(f"| {' | '.join(line)} |" for line in lines))
    if missing := not_measured(content):
        parts.append("## Not measured\n\n" + "\n".join(f"* {line}" for line in missing))
    return "\n\n".join(parts) + "\n"


METHOD = """All times come from one process in which the subjects take turns; each turn starts with an uncounted run. All
onnxruntime sessions share one pool of threads, and read and write the same memory through I/O binding; PyTorch allocates its
results. Before PyTorch's turns the benchmark waits until onnxruntime's idle threads are asleep. A time includes the call from
Python: Identity at the smallest size shows how much that is. GB/s count every element as read once and written once. On a GPU
every run is waited for."""


def _times(dtype: str, cases: list[dict[str, Any]], keys: list[str], labels: dict[str, str]) -> Rows:
    lines = [[human(c["elements"]), *(_microseconds(c["results"].get(key)) for key in keys)] for c in cases]
    return Rows(f"{dtype}, microseconds", ["elements", *(labels[key] for key in keys)], lines)


def _ratios(dtype: str, cases: list[dict[str, Any]]) -> Rows:
    shown = [r for r in RATIOS if any(r[2] in c["ratios"] and r[1] in c["ratios"][r[2]] for c in cases)]
    rates = [pair for pair in (("kernel", "kernel"), ("relu", "Relu"), ("copy", "copy")) if pair[0] in cases[0]["results"]]
    lines = [
        [
            human(c["elements"]),
            *(_ratio(c["ratios"].get(base, {}).get(key)) for _, key, base in shown),
            *(f"{c['results'][key]['gbytes_per_s']:.3g}" for key, _ in rates),
        ]
        for c in cases
    ]
    return Rows(f"{dtype}, ratios", ["elements", *(r[0] for r in shown), *(f"{name} GB/s" for _, name in rates)], lines)


def _networks(content: dict[str, Any]) -> Iterator[Rows]:
    cases, labels = content["networks"], content["network_labels"]
    keys = [key for key in labels if any(key in c["results"] for c in cases)]
    if keys:
        head = ["batch", *(f"{labels[key]}, us" for key in keys), *(f"{labels[key]} / ReLU" for key in keys if key != "relu")]
        lines = [
            [
                str(c["batch"]),
                *(_microseconds(c["results"].get(key)) for key in keys),
                *(_ratio(c["ratios"].get("relu", {}).get(key)) for key in keys if key != "relu"),
            ]
            for c in cases
        ]
        yield Rows("whole models, float32", head, lines)


def _goal(goal: dict[str, Any]) -> list[str]:
    limit = f"at least {goal['at_least']:g}" if goal["at_least"] is not None else f"at most {goal['at_most']:g}"
    return [goal["name"], _ratio(goal["value"]), limit, {True: "met", False: "MISSED", None: "not measured"}[goal["met"]]]


def _microseconds(result: dict[str, Any] | None) -> str:
    return "-" if result is None else f"{result['median_s'] * 1e6:,.{1 if result['median_s'] < 1e-3 else 0}f}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}" if value < 100 else f"{value:.0f}"
