"""A pytest plugin for the test suites of others: the fixture ``assert_parity``. Installing this package brings it in.

def test_the_exported_file(assert_parity, tmp_path):
    opau_onnx.export_model(model, tmp_path / "net.onnx", inputs)
    assert_parity(model, tmp_path / "net.onnx", inputs)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from opau_onnx.verify.report import VerifyResult

RUNTIMES = ("ort-function",)
"""Plain onnxruntime, which is always there."""


@pytest.fixture
def assert_parity() -> Callable[..., VerifyResult]:
    """``assert_parity(model, onnx_path, inputs, *, atol=None, rtol=None, runtimes=("ort-function",))``.

    Fails the test unless the ONNX file gives what the PyTorch model gives, in each of the runtimes.

    Args of the function:
        model: a torch module in evaluation mode, or a file that :func:`opau_onnx.load` reads.
        onnx_path: the file.
        inputs: what to compare on: an array or tensor, or one for each input of the model; axis 0 counts the samples.
        atol, rtol: of the outputs; None for the tolerance that PyTorch's own rounding error gives.
        runtimes: names of :data:`opau_onnx.compare.names.RUNTIMES`; one that cannot run fails the test too.

    It returns the :class:`opau_onnx.VerifyResult`. A failure names the output, the worst index, the tolerance that would be
    needed and, where the activations can be matched, the layer.
    """
    return _assert_parity


def _assert_parity(
    model: Any, onnx_path: str | Path, inputs: Any, *, atol: float | None = None, rtol: float | None = None,
    runtimes: Sequence[str] = RUNTIMES,
) -> VerifyResult:  # fmt: skip
    __tracebackhide__ = True
    from opau_onnx.config import VerifyConfig
    from opau_onnx.verify.api import verify_model

    examples, samples = _inputs(inputs)
    names = (runtimes,) if isinstance(runtimes, str) else tuple(runtimes)
    settings = VerifyConfig(runtimes=names, atol=atol, rtol=rtol)
    # A file brings example inputs of its own.
    given = None if isinstance(model, (str, Path)) else examples
    result = verify_model(model, onnx_path, given, data=samples, settings=settings)
    if result.equal and result.complete:
        return result
    if not result.equal:
        inside = VerifyConfig(runtimes=names, atol=atol, rtol=rtol, layerwise=True)
        result = verify_model(model, onnx_path, given, data=samples, settings=inside)
    pytest.fail(_message(onnx_path, result), pytrace=False)


def _inputs(inputs: Any) -> tuple[tuple[Any, ...], Any]:
    """(tensors, samples)."""
    import torch

    from opau_onnx.io.samples import Samples

    several = tuple(inputs) if isinstance(inputs, (tuple, list)) else (inputs,)
    tensors = tuple(x.detach().cpu() if isinstance(x, torch.Tensor) else torch.as_tensor(x) for x in several)
    return tensors, Samples(tuple(x.numpy() for x in tensors), None, "the given inputs")


def _message(path: str | Path, result: VerifyResult) -> str:
    lines = [f"{path} is not equal to {result.source.name}" if not result.equal else f"{path} was not compared everywhere"]
    lines += [f"  {name} was asked for and did not run: {reason}" for name, reason in result.missing.items()]
    for file in result.files:
        for run in file.file.ran:
            lines += [f"  {_output(run.name, output)}" for output in run.outputs if not output.equal]
        lines += [f"  {finding.text}" for finding in file.findings if finding.fails and finding.kind != "output"]
        lines += [f"  {finding.text}" for finding in file.findings if finding.kind == "weights"]
    return "\n".join(lines)


def _output(runtime: str, output: Any) -> str:
    worst = output.worst
    return (
        f"{output.name} in {runtime}, worst index {list(worst.worst_index)}: {worst.actual:.9g}, PyTorch {worst.expected:.9g}; "
        f"tolerance needed {abs(worst.actual - worst.expected):.3g}, allowed {worst.atol:.3g} + {worst.rtol:.3g} * abs(PyTorch)"
    )
