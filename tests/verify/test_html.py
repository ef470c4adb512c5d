"""report.html: what it says, that it loads nothing, and that texts of a file stay texts."""

from __future__ import annotations

import copy
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from opau_onnx import verify_model
from opau_onnx.io.samples import Samples
from opau_onnx.verify import charts, figures
from opau_onnx.verify.html import render
from tests.verify import nets

VOID = {"meta", "link", "br"}
EVIL = """<script>alert("x")</script>'"><img src=http://example.com/x onerror=alert(1)>\x00\u202e"""
ENUMERATED = {
    "schema", "verdict", "status", "what", "kind", "form", "basis", "missing", "dtype", "asked", "equal", "name of a runtime",
}  # fmt: skip


class Page(HTMLParser):
    """Elements with attributes, the text, and a check that all is nested."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open[-1:] != ["style"]:
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def report(path: Path, **options: Any) -> dict[str, Any]:
    pictures = nets.pictures(6)
    model = nets.classifier()
    labels = model(pictures).argmax(dim=1).numpy()
    data = Samples((pictures.numpy(),), labels.astype(np.int64), "six pictures")
    options = {"runtimes": ["ort-function"], "layerwise": True} | options
    content = verify_model(model, path, nets.pictures(2), data=data, **options).as_dict()
    found: dict[str, Any] = json.loads(json.dumps(content))
    return found


@pytest.fixture(scope="module")
def equal(files: dict[str, Path]) -> dict[str, Any]:
    return report(files["net"])


@pytest.fixture(scope="module")
def different(files: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("different")
    return report(nets.changed(files["net"], folder, nets.edited("second.numerator", lambda v: v * np.float32(-3))))


def verdict(page: Page) -> str | None:
    return next(a["class"] for a in page.all("section") if "verdict" in (a.get("class") or ""))


def test_equal(equal: dict[str, Any]) -> None:
    page = Page(render(equal))
    assert verdict(page) == "verdict ok"
    text = " ".join(page.text.split())
    assert "Equal net.onnx gives what Classifier gives in PyTorch, in ort-function, on 6 samples." in text
    assert "exit code 0" in text
    assert "not run nothing: all ran" in text
    assert "Nowhere does the error grow beyond what rounding explains." in text
    assert "Not equal" not in text
    assert "100.00 %" in text


def test_different(different: dict[str, Any]) -> None:
    assert different["files"][0]["runtimes"][0]["labels"]["differing"] > 0
    page = Page(render(different))
    assert verdict(page) == "verdict bad"
    text = " ".join(page.text.split())
    assert "exit code 1" in text
    assert "changed.onnx does not give what" in text
    assert "the error first grows beyond what rounding explains at the output of second/OrthogonalPade" in text
    assert "samples whose label differs" in text
    rows = [a for a in page.all("tr") if (a.get("class") or "").strip() == "first"]
    assert len(rows) == 1
    assert any(a.get("class") == "bad" for a in page.all("figure"))


def test_causes_come_before_effects(different: dict[str, Any]) -> None:
    items = [line for line in Page(render(different)).text.splitlines() if line.strip()]
    wanted = ["the numerator differs", "by itself gives", "the error first grows beyond its", "decides otherwise"]
    places = [next(i for i, line in enumerate(items) if said in line) for said in wanted]
    assert places == sorted(places)


def test_what_did_not_run_is_said(equal: dict[str, Any]) -> None:
    content = copy.deepcopy(equal)
    missing = {"name": "ort-cuda", "status": "not run", "reason": "no CUDA device", "applicable": True, "version": None,
               "device": None, "provider": None, "implementation": None, "seconds": 0.0, "samples": 0, "outputs": [],
               "labels": None}  # fmt: skip
    content["files"][0]["runtimes"].append(missing)
    page = Page(render(content))
    assert verdict(page) == "verdict ok"
    assert "not run ort-cuda" in " ".join(page.text.split())
    content |= {"complete": False, "missing": {"ort-cuda": "no CUDA device"}}
    page = Page(render(content))
    text = " ".join(page.text.split())
    assert verdict(page) == "verdict warn"
    assert "Incomplete" in text
    assert "exit code 2" in text
    assert "ort-cuda was asked for and did not run: no CUDA device" in text
    content["verdict"] = content["files"][0]["verdict"] = "different"
    assert verdict(Page(render(content))) == "verdict bad"


@pytest.mark.parametrize("which", ["equal", "different"])
def test_it_is_self_contained_and_accessible(which: str, request: pytest.FixtureRequest) -> None:
    text = render(request.getfixturevalue(which))
    page = Page(text)
    assert not page.all("script")
    for _, attributes in page.elements:
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href", "srcset", "action", "xlink:href"):
            assert (attributes.get(name) or "data:,").startswith(("data:,", "#")), attributes
    assert "url(" not in text
    assert "@import" not in text
    assert "default-src 'none'" in text
    ids = [a["id"] for _, a in page.elements if "id" in a]
    assert len(ids) == len(set(ids))
    pictures = [a for a in page.all("svg") if a.get("aria-hidden") != "true"]
    assert len(pictures) == 1 + 1 + 2 * 3  # errors; layers; curve, inputs and ULP of two activations
    for attributes in pictures:
        assert attributes["role"] == "img"
        assert set((attributes["aria-labelledby"] or "").split()) <= set(ids)
    assert all("scope" in a for a in page.all("th"))
    paths = " ".join(a["d"] or "" for a in page.all("path"))
    assert not re.search("nan|inf", paths)


def poisoned(tree: Any, key: str = "") -> Any:
    """Every text that a file or a program could have put there."""
    if isinstance(tree, dict):
        return {k: poisoned(v, k) for k, v in tree.items()}
    if isinstance(tree, list):
        return [poisoned(v, key) for v in tree]
    numbers = ("NaN", "nan", "inf", "-inf")
    return EVIL if isinstance(tree, str) and key not in ENUMERATED and tree not in numbers else tree


@pytest.mark.parametrize("which", ["equal", "different"])
def test_texts_of_a_file_stay_texts(which: str, request: pytest.FixtureRequest) -> None:
    content = poisoned(request.getfixturevalue(which))
    clean, page = Page(render(request.getfixturevalue(which))), Page(render(content))
    for tag in ("script", "img"):
        assert not page.all(tag)
    assert not [name for _, a in page.elements for name in a if name.startswith("on")]
    allowed = {name for name, _ in clean.elements}
    assert {name for name, _ in page.elements} <= allowed
    assert page.text.count('<script>alert("x")</script>') > 20
    assert "\x00" not in page.text
    assert "\u202e" not in page.text
    render(content).encode()


def test_lone_surrogates_of_file_names_can_be_written(equal: dict[str, Any]) -> None:
    content = copy.deepcopy(equal)
    content["files"][0]["file"] = "a\udcff.onnx"
    assert "a\N{REPLACEMENT CHARACTER}.onnx" in render(content).encode().decode()


def test_nothing_finite(equal: dict[str, Any]) -> None:
    """Infinities and NaN are strings in a report."""
    content = copy.deepcopy(equal)
    file = content["files"][0]
    output = file["runtimes"][0]["outputs"][0]
    output["absolute"] |= {"max": "inf", "mean": "inf", "p50": "nan"}
    output["worst"] |= {"tolerance_used": "inf", "atol": "nan", "expected": "-inf"}
    output["histogram"] = {"log10_edges": [], "counts": [], "zeros": 0, "infinite": 42}
    curve = file["activations"][0]["curve"]["groups"][0]
    curve["y"] = ["nan"] * len(curve["y"])
    curve["ulp"] = {name: ["inf"] * len(values) for name, values in curve["ulp"].items()}
    file["activations"][1] |= {"curve": None, "inputs": None, "checks": {}, "reason": "not matched"}
    page = Page(render(content))
    assert "infinite or NaN: 42" in page.text
    assert "∞" in page.text


def test_without_layers_labels_and_data(files: dict[str, Path]) -> None:
    content = verify_model(nets.classifier(), files["standard"], nets.pictures(2), runtimes=["ort-function"]).as_dict()
    text = Page(render(content)).text
    assert "Layer by layer" not in text
    assert "Labels" not in text
    assert "collapsed to the standard form" in " ".join(text.split())


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (5.2e-6, "5.2e−6"), (-0.5, "−0.5"), (0.00355, "0.00355"), (1234.4, "1,234"), (99999.9, "100,000"),
     (1234567.0, "1.23e6"), (100.0, "100"), (float("inf"), "∞"), (float("nan"), "NaN")],
)  # fmt: skip
def test_numbers(value: float, text: str) -> None:
    assert charts.short(value) == text


def test_ticks_are_round_and_inside() -> None:
    assert [text for _, text in charts.ticks(-4.3, 3.9)] == ["−4", "−2", "0", "2"]
    assert [text for _, text in charts.decades(-7.5, -3.0)] == ["1e−7", "1e−6", "1e−5", "1e−4", "0.001"]
    assert len(charts.decades(-30.0, 30.0)) <= charts.TICKS


def test_the_worst_group_is_drawn() -> None:
    quiet = {"group": 0, "bound_ulp": [10.0, 10.0], "ulp": {"torch": [1.0, 1.0]}}
    loud = {"group": 3, "bound_ulp": [10.0, 10.0], "ulp": {"torch": [1.0, 9.0]}}
    assert figures._worst_group([quiet, loud])["group"] == 3
