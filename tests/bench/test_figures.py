"""Medians, ratios and goals, from times that are given: nothing is timed here."""

from __future__ import annotations

from typing import Any

import pytest

from opau_onnx.bench import figures
from opau_onnx.bench.timing import Times


def case(dtype: str, elements: int, **seconds: float) -> dict[str, Any]:
    results: dict[str, Any] = {}
    for key, value in seconds.items():
        results[key] = figures.summary(Times([value], 1))
        figures.bandwidth(results[key], elements, dtype)
    return {"dtype": dtype, "elements": elements, "results": results, "ratios": figures.ratios(results)}


def network(batch: int, **seconds: float) -> dict[str, Any]:
    made = case("float32", 1, **seconds)
    return {"batch": batch, "results": made["results"], "ratios": made["ratios"]}


def test_the_summary_is_of_the_turns_in_any_order() -> None:
    found = figures.summary(Times([5.0, 1.0, 4.0, 2.0, 3.0], 7))
    assert found == {"median_s": 3.0, "q1_s": 2.0, "q3_s": 4.0, "min_s": 1.0, "turns": 5, "repeats": 7}
    assert figures.summary(Times([2.0], 1))["q3_s"] == 2.0


def test_the_floor_of_bytes_is_one_read_and_one_write() -> None:
    for dtype, size in (("float32", 4), ("float16", 2), ("bfloat16", 2), ("float64", 8)):
        found = case(dtype, 1000, kernel=1e-6)["results"]["kernel"]
        assert found["gbytes_per_s"] == pytest.approx(2 * size)
        assert found["gelements_per_s"] == pytest.approx(1.0)


def test_ratios_are_the_subject_over_the_base() -> None:
    found = case("float32", 1024, kernel=2.0, relu=1.0, gelu=8.0, function=60.0)["ratios"]
    assert found["relu"] == {"kernel": 2.0, "relu": 1.0, "gelu": 8.0, "function": 60.0}
    assert found["kernel"]["function"] == 30.0
    assert found["gelu"]["kernel"] == 0.25


def test_a_base_that_was_not_measured_gives_no_ratios() -> None:
    assert case("float32", 1024, function=60.0)["ratios"] == {}


def test_time_per_byte_is_over_float32_of_the_same_size_and_subject() -> None:
    cases = [
        case("float32", 1024, kernel=4.0, relu=2.0),
        case("float16", 1024, kernel=3.0),
        case("float16", 2048, kernel=3.0),  # no float32 of this size
        case("float64", 1024, kernel=8.0, relu=6.0, gelu=1.0),
    ]
    found = {(r["dtype"], r["subject"]): r["ratio"] for r in figures.per_byte(cases)}
    assert found == {("float16", "kernel"): 1.5, ("float64", "kernel"): 1.0, ("float64", "relu"): 1.5}


def test_goals_hold_the_worst_of_their_sizes() -> None:
    cases = [
        case("float32", 2**10, kernel=1.0, relu=1.0, gelu=1.0),  # too small to count
        case("float32", 2**16, kernel=1.0, relu=0.5, gelu=1.9),
        case("float32", 2**20, kernel=1.0, relu=1.0, gelu=3.0, function=31.0),
        case("float32", 2**24, kernel=1.3, relu=1.0, gelu=9.0),
        case("float16", 2**10, kernel=9.0),
        case("float16", 2**16, kernel=0.5),
        case("float16", 2**20, kernel=0.7),
    ]
    found = figures.goals(cases, [network(1, kernel=9.0, relu=1.0), network(256, kernel=1.05, relu=1.0)])
    assert [g["value"] for g in found] == pytest.approx([31.0, 2.0, 1.3, 1.9, 1.4, 1.05])
    assert [g["met"] for g in found] == [True, True, False, False, True, True]


def test_goals_without_measurements_are_neither_met_nor_missed() -> None:
    assert {g["met"] for g in figures.goals([], [])} == {None}
