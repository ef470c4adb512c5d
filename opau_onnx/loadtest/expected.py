"""References for expected responses: an ONNX file run here, or the server itself before the load."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from pathlib import Path

from opau_onnx.loadtest.config import LoadTestError
from opau_onnx.loadtest.connection import Client, UnreachableError
from opau_onnx.loadtest.responses import InferRequest, InvalidResponseError, ServedModel, StatusError, Tensor, tensor
from opau_onnx.protocol.tensors import Array, TensorSpec
from opau_onnx.serve.config import ModelSettings, usable_cores


class Reference(ABC):
    """Source of expected responses.

    Attributes:
        description: for reports.
    """

    description: str

    @abstractmethod
    async def outputs(self, request: InferRequest, inputs: Mapping[str, Array]) -> dict[str, Tensor]:
        """All outputs for a request with these inputs.

        Raises:
            LoadTestError: there are none.
        """


class ServerReference(Reference):
    """The server's own responses to single requests before the load."""

    description = "the server's own responses to single requests before the load: errors that it always makes are not detected"

    def __init__(self, client: Client, model: ServedModel) -> None:
        self._client, self._model = client, model

    async def outputs(self, request: InferRequest, inputs: Mapping[str, Array]) -> dict[str, Tensor]:
        message = self._client.encode(self._model, InferRequest(request.number, request.rows, inputs))
        try:
            found = self._client.parse(await self._client.infer(message)).outputs
            return {spec.name: _checked(found[spec.name], spec.datatype) for spec in self._model.outputs}
        except KeyError as error:
            raise LoadTestError(f"the server does not return the output {error} of {self._model.name!r}") from None
        except (StatusError, UnreachableError, InvalidResponseError) as error:
            raise LoadTestError(f"a single request before the load failed: {error}") from None


def _checked(tensor: Tensor, datatype: str) -> Tensor:
    tensor.array()
    if tensor.datatype != datatype:
        raise InvalidResponseError(f"an output is {tensor.datatype}; the model's metadata has {datatype}")
    return tensor


class FileReference(Reference):
    """An ONNX file in onnxruntime on this machine's CPU.

    Raises:
        LoadTestError: the file's inputs or outputs are not the served model's.
        OpauError: it cannot be read.
    """

    def __init__(self, path: str | Path, model: ServedModel) -> None:
        from opau_onnx.serve.sessions import CpuRunner, open_model

        opened = open_model(ModelSettings(path=str(path), device="cpu", threads=usable_cores()))
        _check("input", path, opened.inputs, model.inputs)
        _check("output", path, opened.outputs, model.outputs)
        self._path, self._specs = path, opened.outputs
        self._runner = CpuRunner(opened.sessions[0], opened.inputs, opened.outputs)
        self.description = f"{path}, run in onnxruntime here"

    async def outputs(self, request: InferRequest, inputs: Mapping[str, Array]) -> dict[str, Tensor]:
        try:
            arrays = self._runner.run(dict(inputs))
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise LoadTestError(f"{self._path} cannot be run on {request.rows} rows: {error}") from None
        return {spec.name: tensor(arrays[spec.name], spec.datatype) for spec in self._specs}


def _check(kind: str, path: str | Path, here: tuple[TensorSpec, ...], there: tuple[TensorSpec, ...]) -> None:
    own, served = ({spec.name: spec.datatype for spec in specs} for specs in (here, there))
    if own != served:
        raise LoadTestError(
            f"{path} is not the model that the server has: its {kind}s are {', '.join(map(str, here))}; the server's are "
            f"{', '.join(map(str, there))}"
        )
