"""Tables of a run whose numbers are given."""

from __future__ import annotations

import copy
from typing import Any

from opau_onnx.bench import figures, report
from tests.bench.test_figures import case, network


def content() -> dict[str, Any]:
    cases = [
        case("float32", 2**16, kernel=2e-5, relu=1e-5, gelu=9e-5, function=2e-3),
        case("float32", 2**20, kernel=2e-4, relu=1e-4, gelu=9e-4, function=3e-2),
        case("float16", 2**16, kernel=1e-5, function=2e-3),
    ]
    nets = [network(256, kernel=9e-3, relu=8e-3)]
    return {
        "command": "opau-bench",
        "date": "2000-01-01",
        "machine": {
            "cpu": "CPU",
            "gpu": None,
            "instruction_set": "avx2",
            "cores_used_by_others": 0.02,
            "onnxruntime": "1",
            "torch": "2",
        },
        "settings": {"device": "cpu", "threads": 2, "rounds": 15},
        "activation": {"basis": "hermite_e", "form": "abs_terms", "degrees": [5, 4]},
        "labels": {"kernel": "opau kernel", "relu": "Relu", "gelu": "Gelu", "function": "function body", "copy": "torch copy"},
        "network_labels": {"kernel": "LeNet HP-1", "relu": "LeNet ReLU"},
        "cases": cases,
        "networks": nets,
        "per_byte_over_float32": figures.per_byte(cases),
        "goals": figures.goals(cases, nets),
        "not_measured": [
            {"subject": "relu", "dtype": "float16", "reason": "no kernel"},
            {"subject": "gelu", "dtype": "float16", "reason": "no kernel"},
            {"subject": "gelu", "dtype": "bfloat16", "reason": "no kernel"},
        ],
    }


def test_every_table_is_there_and_none_is_empty() -> None:
    found = {rows.title: rows for rows in report.tables(content())}
    assert list(found) == [
        "float32, microseconds", "float32, ratios", "float16, microseconds", "float16, ratios", "whole models, float32",
        "kernel, time for each byte over float32's", "goals",
    ]  # fmt: skip
    for rows in found.values():
        assert rows.lines
        assert {len(line) for line in rows.lines} == {len(rows.head)}
    first = found["float32, microseconds"]
    assert first.head == ["elements", "opau kernel", "Relu", "Gelu", "function body"]  # no column without a number
    assert first.lines[0] == ["64 Ki", "20.0", "10.0", "90.0", "2,000"]
    ratios = dict(zip(found["float32, ratios"].head, found["float32, ratios"].lines[0], strict=True))
    assert ratios["kernel / Relu"] == "2.00"
    assert ratios["Gelu / kernel"] == "4.50"
    assert ratios["function / kernel"] == "100"
    assert found["whole models, float32"].lines == [["256", "9,000", "8,000", "1.12"]]
    assert found["kernel, time for each byte over float32's"].lines == [["64 Ki", "1.00"]]
    assert ["LeNet, batch 256: HP-1 over ReLU", "1.12", "at most 1.1", "MISSED"] in found["goals"].lines


def test_reasons_are_gathered() -> None:
    assert report.not_measured(content()) == ["relu (float16); gelu (float16, bfloat16): no kernel"]


def test_a_busy_machine_is_said() -> None:
    busy = content()
    assert report.warnings(busy) == []
    busy["machine"]["cores_used_by_others"] = 1.5
    assert "used 1.5 of the cores" in report.warnings(busy)[0]
    assert "**Warning:** other programs" in report.markdown(busy)


def test_markdown_holds_tables_that_are_tables() -> None:
    text = report.markdown(content())
    assert "| elements | opau kernel | Relu | Gelu | function body |\n| --- | --- | --- | --- | --- |\n" in text
    assert "`opau-bench`: hermite_e, abs_terms, degrees (5, 4) on CPU, 2 threads, kernel avx2" in text
    assert "* relu (float16)" in text


def test_nothing_measured_gives_no_tables() -> None:
    empty = copy.deepcopy(content())
    empty.update(cases=[], networks=[], per_byte_over_float32=[], goals=figures.goals([], []))
    assert list(report.tables(empty)) == []
