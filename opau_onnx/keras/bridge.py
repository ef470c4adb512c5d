"""A Keras model, on the torch backend, as a torch module that :func:`opau_onnx.export_model` takes like any other.

Keras' own variables are constants to torch.export, and its layers cast to the dtype of their policy. So the module holds the
variables as parameters under their Keras paths, an :class:`opau_onnx.nn.OrthogonalPade` for each of our layers, and runs the
model on them in whatever dtype they have.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Iterator
from typing import Any

import keras
from torch import Tensor, nn

from opau_onnx.errors import ExportError
from opau_onnx.keras.convert import to_torch
from opau_onnx.keras.layer import BRIDGED, OrthogonalPade
from opau_onnx.nn import OrthogonalPade as TorchOrthogonalPade
from opau_onnx.nn.casting import dtype_name


class _Shared:
    """Holds a Keras model, which copies of the module share: it is only a recipe."""

    def __init__(self, model: Any) -> None:
        self.model = model

    def __deepcopy__(self, memo: Any) -> _Shared:
        return self


class TorchModel(nn.Module):
    """A Keras model as a torch module, for inference; made by :func:`to_torch_model`.

    Attributes:
        places: name of each variable in this module -> its position among the model's trainable or other variables.
    """

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.keras = _Shared(model)
        self.places: list[list[str]] = [[], []]
        # Without it layers take None, which is inference too.
        self._inference = {"training": False} if "training" in inspect.signature(model.call).parameters else {}
        self.activations: dict[int, str] = {}
        for layer in model._flatten_layers():
            if isinstance(layer, OrthogonalPade):
                name = self._name(layer.path)
                self._put(name, to_torch(layer))
                self.activations[id(layer)] = name
        ours = {id(v): f"{self.activations[id(layer)]}.{v.name}" for layer in self._ours() for v in layer.weights}
        for i, variables in enumerate((model.trainable_variables, model.non_trainable_variables)):
            for variable in variables:
                name = ours.get(id(variable)) or self._name(variable.path)
                if id(variable) not in ours:
                    self._put(name, variable.value.detach().cpu().clone())
                self.places[i].append(name)
        self.eval()

    def _ours(self) -> list[Any]:
        return [v for v in self.keras.model._flatten_layers() if isinstance(v, OrthogonalPade)]

    def _name(self, path: str) -> str:
        """A name that is not taken, from a Keras path."""
        parts = path.replace(".", "_").split("/")
        if len(parts) > 1 and parts[0] == self.keras.model.name:
            parts = parts[1:]
        name, base, count = ".".join(parts), ".".join(parts), 1
        while self._find(name) is not None:
            name, count = f"{base}_{count}", count + 1
        return name

    def _find(self, name: str) -> Any:
        found: Any = self
        for part in name.split("."):
            found = getattr(found, part, None)
        return found

    def _put(self, name: str, value: nn.Module | Tensor) -> None:
        *parents, last = name.split(".")
        holder: nn.Module = self
        for part in parents:
            if part not in holder._modules:
                holder.add_module(part, nn.Module())
            holder = holder.get_submodule(part)
        if isinstance(value, nn.Module):
            holder.add_module(last, value)
        elif value.is_floating_point():
            holder.register_parameter(last, nn.Parameter(value))
        else:
            holder.register_buffer(last, value)

    def _run(self, *inputs: Tensor) -> Any:
        model = self.keras.model
        values = [[self._find(name) for name in names] for names in self.places]
        modules = {key: self.get_submodule(name) for key, name in self.activations.items()}
        token = BRIDGED.set(modules)
        try:
            with _computing(model, self._dtype()):
                found, _ = model.stateless_call(*values, inputs[0] if len(inputs) == 1 else list(inputs), **self._inference)
        finally:
            BRIDGED.reset(token)
        return found

    def _dtype(self) -> str:
        for name, parameter in self.named_parameters():
            if not isinstance(self.get_submodule(name.rpartition(".")[0]), TorchOrthogonalPade):
                return dtype_name(parameter.dtype)
        return "float32"


@contextlib.contextmanager
def _computing(model: Any, dtype: str) -> Iterator[None]:
    """All layers compute in this dtype, and variables that are numbers with a point take values of it."""
    layers = list(model._flatten_layers())
    variables = [v for v in model.variables if keras.backend.is_float_dtype(v.dtype)]
    before = [layer.dtype_policy for layer in layers], [variable._dtype for variable in variables]
    for layer in layers:
        layer.dtype_policy = dtype
    for variable in variables:
        variable._dtype = dtype
    try:
        yield
    finally:
        for layer, policy in zip(layers, before[0], strict=True):
            layer.dtype_policy = policy
        for variable, kind in zip(variables, before[1], strict=True):
            variable._dtype = kind


def to_torch_model(model: Any) -> TorchModel:
    """A torch module that computes what a Keras model does, with copies of its weights.

    Args:
        model: a built Keras model on the torch backend, with one input or a flat list of them.

    Raises:
        ExportError: another backend, or a model that is not built.
    """
    running = keras.backend.backend()
    if running != "torch":
        raise ExportError(
            f"Keras runs on {running} here; torch modules are made on its torch backend. Save the model "
            "(model.save('net.keras')), and load it where KERAS_BACKEND=torch is set"
        )
    if not model.built:
        raise ExportError(f"the model {model.name} has no weights yet; call it on an input first")
    found = [str(t.name) for t in getattr(model, "inputs", None) or ()] or ["input"]
    names = [n if n.isidentifier() and found.count(n) == 1 else f"input_{i}" for i, n in enumerate(found)]
    kinds = inspect.Parameter.POSITIONAL_OR_KEYWORD

    def forward(self: TorchModel, *inputs: Tensor) -> Any:
        return self._run(*inputs)

    parameters = [inspect.Parameter("self", kinds), *(inspect.Parameter(n, kinds) for n in names)]
    forward.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]  # torch.export names inputs after it
    kind = type("TorchModel", (TorchModel,), {"forward": forward, "__module__": __name__})
    made: TorchModel = kind(model)
    return made
