"""The report as one HTML page: no script, nothing loaded from elsewhere, every text of a file escaped."""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from opau_onnx.compare.names import DIFFERENT, EQUAL, NOT_RUN, PYTORCH, TORCH
from opau_onnx.verify import figures
from opau_onnx.verify.charts import Chart, short
from opau_onnx.verify.figures import number

LISTED = 100
"""So many samples whose label differs are shown of a runtime; the JSON report has more."""
CAUSES = ("configuration", "coefficients", "activation", "layer", "labels", "output")
"""Kinds of findings in the order in which they are told: causes before what they bring about."""
TEMPLATES = Path(__file__).with_name("templates")
_UNPRINTABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff\u202a-\u202e\u2066-\u2069]")
"""Characters that no page may hold, or that would turn the direction of the text."""


def render(report: dict[str, Any]) -> str:
    """The page of a report.

    Args:
        report: what :meth:`opau_onnx.verify.report.VerifyResult.as_dict` gives, or what the JSON report holds.
    """
    charts: list[Chart] = []

    def numbered(chart: Chart | None) -> Chart | None:
        if chart is not None:
            charts.append(chart)
            chart.number = len(charts)
        return chart

    files = [_file(file, numbered) for file in report["files"]]
    return _environment().get_template("report.html.j2").render(
        report=report, files=files, tone=_tone(report), headline=_headline(report), exit_code=_exit_code(report),
        summary=_summary(report), not_run=_not_run(report), failing=_texts(report, fails=True),
        suspects=_texts(report, fails=False, kinds={"weights"}), notes=_texts(report, fails=False, kinds={"note"}),
    )  # fmt: skip


@lru_cache(maxsize=1)
def _environment() -> jinja2.Environment:
    found = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined, finalize=_printable,
        trim_blocks=True, lstrip_blocks=True, auto_reload=False,
    )  # fmt: skip
    found.filters.update(
        short=lambda v: short(number(v)), percent=_percent, count=lambda v: f"{v:,}", style=figures.style,
        nine=lambda v: short(number(v), 9), tone=_tone_of, words=_words,
    )  # fmt: skip
    found.globals["LISTED"] = LISTED
    return found


def _printable(value: Any) -> Any:
    if value is None:
        return ""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return _UNPRINTABLE.sub("\N{REPLACEMENT CHARACTER}", value)


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.2f} %"


def _tone_of(status: str) -> str:
    return {EQUAL: "ok", DIFFERENT: "bad", NOT_RUN: "warn"}[status]


def _words(names: Iterable[Any]) -> str:
    """a, b and c."""
    *most, last = [str(name) for name in names] or [""]
    return f"{', '.join(most)} and {last}" if most else last


def _exit_code(report: dict[str, Any]) -> int:
    """As the command ends."""
    return 1 if report["verdict"] != EQUAL else 0 if report["complete"] else 2


def _tone(report: dict[str, Any]) -> str:
    return ("ok", "bad", "warn")[_exit_code(report)]


def _headline(report: dict[str, Any]) -> str:
    return ("Equal", "Not equal", "Incomplete")[_exit_code(report)]


def _summary(report: dict[str, Any]) -> str:
    files, name, by = report["files"], report["model"]["name"], report["reference"]["name"]
    given = f"what {name} gives in {by}" if by == PYTORCH else f"what {name} gives"
    wrong = [f["file"] for f in files if f["verdict"] != EQUAL]
    ran = list(dict.fromkeys(r["name"] for f in files for r in f["runtimes"] if r["status"] != NOT_RUN))
    samples = max((f["samples"] for f in files), default=0)
    if wrong:
        among = f"{len(wrong)} of {len(files)} files: {_words(wrong)}" if len(files) > 1 else wrong[0]
        return f"{among} does not give {given}."
    what = _words(f["file"] for f in files)
    verb = "gives" if len(files) == 1 else "give"
    where = f"in {_words(ran)}, on {samples:,} samples"
    if not report["complete"]:
        return f"What ran is equal: {what} {verb} {given}, {where}. But not all that was asked for ran."
    return f"{what} {verb} {given}, {where}."


def _not_run(report: dict[str, Any]) -> list[dict[str, Any]]:
    """Runtimes that ran no file, and why; those that were asked for first."""
    found: dict[str, str] = {}
    for file in report["files"]:
        for run in file["runtimes"]:
            if run["status"] == NOT_RUN:
                found.setdefault(run["name"], run["reason"])
    ran = {r["name"] for f in report["files"] for r in f["runtimes"] if r["status"] != NOT_RUN}
    rows = [{"name": n, "reason": reason, "asked": n in report["missing"]} for n, reason in found.items() if n not in ran]
    return sorted(rows, key=lambda row: not row["asked"])


def _texts(report: dict[str, Any], *, fails: bool, kinds: set[str] | None = None) -> list[dict[str, Any]]:
    found = [f for file in report["files"] for f in file["findings"]]
    chosen = [f for f in found if f["fails"] == fails and (kinds is None or f["kind"] in kinds)]
    chosen.sort(key=lambda f: CAUSES.index(f["kind"]) if f["kind"] in CAUSES else len(CAUSES))
    return list({(f["file"], f["text"]): f for f in chosen}.values())


def _file(file: dict[str, Any], numbered: Any) -> dict[str, Any]:
    """A file with all that is drawn of it."""
    rows = figures.layer_rows(file["layers"]) if file["layers"] else []
    ran = [r for r in file["runtimes"] if r["status"] != NOT_RUN]
    names = [r["name"] for r in ran]
    return {
        "content": file,
        "ran": ran,
        "own_rows": _own_rows(file, ran),
        "labelled": [r for r in ran if r["labels"]],
        "histograms": [numbered(chart) for chart in figures.error_histograms(file)],
        "rows": rows,
        "layer_names": [n for n in names if any(n in row.comparisons for row in rows)],
        "layer_chart": numbered(figures.layer_chart(rows)),
        "firsts": [row for row in rows if row.first],
        "activations": [_activation(found, numbered) for found in file["activations"]],
    }


def _own_rows(file: dict[str, Any], ran: list[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """The reference's own rounding, by output."""
    names = next(([o["name"] for o in r["outputs"]] for r in ran if r["outputs"]), [])
    rounding = file["reference"]["rounding"]
    return [(names[i] if i < len(names) else f"output {i}", found) for i, found in enumerate(rounding)]


def _activation(found: dict[str, Any], numbered: Any) -> dict[str, Any]:
    checks = [(name, a) for name, a in found["checks"].items() if name != TORCH]
    stored = found["stored"]
    return {
        "content": found,
        "charts": [numbered(chart) for chart in figures.activation_charts(found)],
        "checks": checks,
        "wrong": [s for s in stored or () if not s["equal"]],
    }
