"""Expected outputs, from an ONNX file that is run here."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from opau_onnx.loadtest.answers import Model, Question, Tensor, tensor
from opau_onnx.loadtest.settings import LoadTestError
from opau_onnx.protocol.tensors import TensorSpec
from opau_onnx.serve.config import ModelSettings, usable_cores


def local_answers(path: str | Path, model: Model, questions: Iterable[Question]) -> list[dict[str, Tensor]]:
    """The outputs of a file for each question, in onnxruntime on this machine's CPU.

    The session is gone when this returns: nothing of it shares the cores with the load.

    Raises:
        LoadTestError: the file is not what the server serves, or cannot be run on the questions.
        OpauError: it cannot be read.
    """
    from opau_onnx.serve.sessions import CpuRunner, open_model

    opened = open_model(ModelSettings(path=str(path), device="cpu", threads=usable_cores()))
    _check("input", path, opened.inputs, model.inputs)
    _check("output", path, opened.outputs, model.outputs)
    runner = CpuRunner(opened.sessions[0], opened.inputs, opened.outputs)
    found = []
    for question in questions:
        try:
            arrays = runner.run(dict(question.inputs))
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise LoadTestError(f"{path} cannot be run on {question.rows} rows: {error}") from None
        found.append({spec.name: tensor(arrays[spec.name], spec.datatype) for spec in opened.outputs})
    return found


def _check(kind: str, path: str | Path, here: tuple[TensorSpec, ...], there: tuple[TensorSpec, ...]) -> None:
    own, served = ({spec.name: spec.datatype for spec in specs} for specs in (here, there))
    if own != served:
        raise LoadTestError(
            f"{path} is another model than the server's: its {kind}s are {', '.join(map(str, here))}; the server's are "
            f"{', '.join(map(str, there))}"
        )
