"""Percentiles, histograms and labels, against numpy and by hand."""

from __future__ import annotations

import numpy as np
import pytest

from opau_onnx.compare.agreement import LISTED, TopKAgreement
from opau_onnx.compare.statistics import PERCENTILES, ErrorStatistics, relative


def of(*batches: object) -> ErrorStatistics:
    made = ErrorStatistics()
    for batch in batches:
        made.add(np.asarray(batch, dtype=np.float64))
    return made


def test_percentiles_are_rounded_up_by_a_fortieth_at_most() -> None:
    errors = 10 ** np.random.default_rng(0).uniform(-12, 3, 20_011)
    made = of(errors[:7000].reshape(100, 70), errors[7000:])
    assert made.maximum == errors.max()
    assert made.mean == pytest.approx(errors.mean())
    for share in PERCENTILES.values():
        exact = np.quantile(errors, share / 100, method="inverted_cdf")
        assert exact <= made.percentile(share) * (1 + 1e-12)
        assert made.percentile(share) <= exact * 1.024


def test_zeros_and_infinities() -> None:
    made = of([0.0] * 60, [1e-6] * 35, [np.inf] * 5)
    assert made.percentile(50) == 0.0
    assert 1e-6 <= made.percentile(90) < 1.03e-6
    assert made.percentile(99) == made.maximum == made.mean == np.inf
    assert made.histogram() == {"log10_edges": [-6.0, -5.75], "counts": [35], "zeros": 60, "infinite": 5}


def test_a_percentile_is_never_above_the_largest() -> None:
    assert of([1.0001e-6]).percentile(99.9) == 1.0001e-6


@pytest.mark.parametrize("errors", [[], [0.0]])
def test_nothing_to_count(errors: list[float]) -> None:
    assert of(errors).as_dict() == dict.fromkeys(("max", "mean", *PERCENTILES), 0.0)
    assert of(errors).histogram()["counts"] == []


def test_the_histogram_counts_every_error_once() -> None:
    errors = 10 ** np.random.default_rng(1).uniform(-40, 50, 5000)  # beyond the bins on both sides
    histogram = of(errors).histogram()
    assert sum(histogram["counts"]) == 5000
    assert len(histogram["log10_edges"]) == len(histogram["counts"]) + 1
    inside = errors[(errors > 1e-9) & (errors < 1e-8)]
    edges = histogram["log10_edges"]
    first, last = edges.index(-9.0), edges.index(-8.0)
    assert sum(histogram["counts"][first:last]) == inside.size


def test_relative_errors_leave_out_what_has_none() -> None:
    expected = np.array([2.0, -4.0, 0.0, 0.0, np.inf, np.nan])
    errors = np.array([1.0, 1.0, 1.0, 0.0, np.inf, 0.0])
    assert relative(errors, expected).tolist() == [0.5, 0.25, 0.0, 0.0]


def test_labels_by_hand() -> None:
    expected = np.array([[3.0, 2.0, 1.0, 0.0, 0.0, 0.0, 0.0], [0.0, 1.0, 5.0, 4.75, 3.0, 2.0, 1.5], [9.0, 0, 0, 0, 0, 0, 0]])
    outputs = expected.copy()
    outputs[1, 3] = 5.5
    labels = TopKAgreement()
    labels.add(100, outputs, expected, np.array([0, 0, 1]))
    assert (labels.samples, labels.differing, labels.agreement) == (3, 1, 2 / 3)
    assert labels.as_dict()["top1"] == pytest.approx(1 / 3)
    assert labels.as_dict()["top5"] == pytest.approx(2 / 3)  # 0 is the last of seven in the second
    (one,) = labels.different
    assert (one.sample, one.label, one.expected, one.runtime) == (101, 0, 2, 3)
    assert (one.expected_margin, one.runtime_margin) == (0.25, 0.5)


def test_unknown_labels_and_few_classes() -> None:
    labels = TopKAgreement()
    labels.add(0, np.array([[0.0, 1.0]]), np.array([[1.0, 0.0]]), None)
    found = labels.as_dict()
    assert (found["top1"], found["top5"], found["differing"]) == (None, None, 1)
    assert found["different"][0]["label"] is None


def test_the_list_ends_but_the_count_goes_on() -> None:
    labels = TopKAgreement()
    for start in range(0, 3 * LISTED, LISTED):
        labels.add(start, np.tile([0.0, 1.0], (LISTED, 1)), np.tile([1.0, 0.0], (LISTED, 1)), None)
    assert labels.differing == 3 * LISTED
    assert len(labels.different) == LISTED
