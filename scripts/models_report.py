"""Page docs/benchmarks/models.md of scripts/models_table.py."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

Part = dict[str, Any]
"""Results as plain data."""
TOLERANCE = 1e-3
ASKED = {"preact_resnet34": 1.03, "mobilenet_v2": 1.08, "efficientnet_b0": 1.08}
"""Architecture -> the most that the fused model may take, in times of the one with ReLU."""
TIMED = {"learned": ("learned", True), "fused": ("fused", True), "fused, outside the layout": ("fused", False)}
"""Column -> file, and whether create_session may rewrite it for this machine."""


def cell(name: str, part: Part) -> str:
    """Cell of one step in the table."""
    verdict = {True: "equal", False: "**different**", None: "not possible"}[part["equal"]]
    if "told" in part:
        return f"{verdict}: {part['told']}"
    if name == "certified":
        verdict = "passed" if part["equal"] else "**failed**"
        return f"{verdict}, {part['functions']} functions, {part['complete']} on all inputs, {part['ulp']:.1f} ULP"
    return f"{verdict}, {part['tolerance_used']:.2f} of the tolerance"


def markdown(report: Part) -> str:
    on, settings = report["machine"], report["settings"]
    lines = [
        "# The architectures with HP-1 and HP-2", "",
        f"`{report['command']}`: {on['cpu']}, {on['cores']} cores, kernel {on['instruction_set']}; onnxruntime "
        f"{on['onnxruntime']}, {report['date']}. See [models](../models.md).", "",
        f"Within: the standard form, with a tolerance of {TOLERANCE:g}, on {settings['samples']} images. Batch 1 and 32: "
        "PyTorch against the exported file, its standard and its fused form, by kernel and function body; the largest share of "
        "the tolerance that was used. Classes of random weights are nearly ties, and quantization may change any of them.", "",
    ]  # fmt: skip
    steps = list(report["models"][0]["found"])
    lines += _table(["network", "weights", *steps], (
        [m["name"], m["weights"], *(cell(step, m["found"][step]) for step in steps)] for m in report["models"]
    ))  # fmt: skip
    if report["times"]:
        lines += [
            "", f"## Time of the whole model, batch {settings['batch']}", "",
            f"Milliseconds, medians of up to {settings['rounds']} turns in one process and one pool of threads; in brackets "
            "the ratio to the same network with ReLU, of medians and of the fastest turns. Other programs used "
            f"{report['others']} cores.", "",
        ]  # fmt: skip
        lines += _table(["network", "ReLU", *TIMED, "asked of fused"], (_times(*entry) for entry in report["times"].items()))
    return "\n".join(lines) + "\n"


def _times(name: str, results: Part) -> list[str]:
    cells = [f"{results['ReLU']['median_s'] * 1e3:.2f}"]
    for key in TIMED:
        r = results[key]
        cells.append(f"{r['median_s'] * 1e3:.2f} ({r['ratio']:.3f}, {r['ratio_of_fastest']:.3f})")
    most = ASKED.get(name.split()[0])
    met = "" if most is None else f"{most}: {'met' if results['fused']['ratio'] <= most else 'not met'}"
    return [name, *cells, met]


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> list[str]:
    return [f"| {' | '.join(cells)} |" for cells in (head, ["---"] * len(head), *rows)]
