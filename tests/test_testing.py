"""The pytest fixture, as another project's test suite uses it."""

from __future__ import annotations

import tomllib
from pathlib import Path

import pytest

from tests.verify import nets

pytest_plugins = ["pytester"]
HERE = Path(__file__).resolve().parents[1]


@pytest.fixture
def suite(pytester: pytest.Pytester, monkeypatch: pytest.MonkeyPatch, files: dict[str, Path]) -> pytest.Pytester:
    """A project of its own that loads the plugin by name; where the package is installed, its entry point does that."""
    monkeypatch.setenv("PYTEST_DISABLE_PLUGIN_AUTOLOAD", "1")
    monkeypatch.setenv("NET", str(files["net"]))
    return pytester


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return nets.files(tmp_path_factory.mktemp("suite"))


def run(suite: pytest.Pytester, body: str) -> pytest.RunResult:
    head = """
import os
import pytest
import torch
from tests.verify.nets import classifier, pictures

NET = os.environ["NET"]

"""
    suite.makepyfile(head + body)
    return suite.runpytest_inprocess("-p", "opau_onnx.testing", "-p", "no:cacheprovider")


def test_equal(suite: pytest.Pytester) -> None:
    result = run(
        suite,
        """
def test_tensor(assert_parity):
    assert assert_parity(classifier(), NET, pictures(4)).equal

def test_array_and_tuple(assert_parity):
    assert_parity(classifier(), NET, pictures(4).numpy())
    assert_parity(classifier(), NET, (pictures(300),), runtimes="reference")
""",
    )
    result.assert_outcomes(passed=2)


def test_a_failure_names_output_index_tolerance_and_layer(
    suite: pytest.Pytester, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    change = nets.edited("second.numerator", nets.off_by_a_thousandth)
    monkeypatch.setenv("NET", str(nets.changed(files["net"], tmp_path, change)))
    result = run(
        suite,
        """
def test_it(assert_parity):
    assert_parity(classifier(), NET, pictures(4))
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(
        [
            "*changed.onnx is not equal to Classifier",
            "  output in ort-function, worst index *[[]*, *[]]: *, PyTorch *; tolerance needed *, allowed * + 0 * abs(PyTorch)",
            "  second/OrthogonalPade: the numerator differs from the model's: numerator*",
            "  the error first grows beyond its tolerance in second/OrthogonalPade itself: ort-function *",
        ]
    )
    assert "testing.py" not in result.stdout.str()  # no frames of ours


def test_tolerances_of_the_callers_own(
    suite: pytest.Pytester, files: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NET", str(nets.changed(files["net"], tmp_path, nets.edited("head.bias", lambda v: v + 0.001))))
    result = run(
        suite,
        """
@pytest.mark.parametrize("atol", [0.0012, 0.0005, None])
def test_it(assert_parity, atol):
    assert_parity(classifier(), NET, pictures(4), atol=atol)
""",
    )
    result.assert_outcomes(passed=1, failed=2)


def test_a_runtime_that_cannot_run_fails(suite: pytest.Pytester, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("onnxruntime.get_available_providers", lambda: ["CPUExecutionProvider"])
    result = run(
        suite,
        """
def test_it(assert_parity):
    assert_parity(classifier(), NET, pictures(4), runtimes=["ort-function", "ort-cuda"])
""",
    )
    result.assert_outcomes(failed=1)
    result.stdout.fnmatch_lines(["*was not compared everywhere", "  ort-cuda was asked for and did not run: *"])


def test_the_entry_point() -> None:
    project = tomllib.loads((HERE / "pyproject.toml").read_text())["project"]
    assert project["entry-points"]["pytest11"] == {"opau_onnx": "opau_onnx.testing"}


def test_the_plugin_loads_nothing_heavy(suite: pytest.Pytester) -> None:
    suite.makepyfile("import sys\ndef test_it(): assert not {'torch', 'numpy', 'onnx', 'onnxruntime'} & set(sys.modules)\n")
    suite.runpytest_subprocess("-p", "opau_onnx.testing").assert_outcomes(passed=1)
