"""A file on disk -> a model ready to export, with example inputs."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opau_onnx.errors import ExportError, LoadError, ReplacementError
from opau_onnx.io import checkpoint, pt2_scan, torch_files
from opau_onnx.nn.adopting import Adopted, adopted_copy
from opau_onnx.nn.casting import input_names


@dataclass(frozen=True)
class Source:
    """A model to export.

    Attributes:
        model: in evaluation mode, on the CPU; for an exported program the module made of it.
        inputs: example inputs, one tensor for each argument.
        program: the program itself where the file holds one; its shapes and dtype are fixed.
        kind: "checkpoint", "state_dict", "exported program", "pickled module" or "module".
        name: the file's name without its folder.
        sha256: of the file's bytes; None for a module in memory.
        original: the model as it came, where it holds activations of other libraries: in ``model`` they are ours.
        adopted, left: what :func:`opau_onnx.nn.adopt` made of them.
    """

    model: nn.Module
    inputs: tuple[Tensor, ...]
    program: torch.export.ExportedProgram | None
    kind: str
    name: str
    sha256: str | None
    original: nn.Module | None = None
    adopted: tuple[Adopted, ...] = ()
    left: tuple[str, ...] = ()


Shapes = Sequence[tuple[int, ...]] | Mapping[str, tuple[int, ...]]


def load(path: Path, *, factory: str | None = None, input_shapes: Shapes | None = None, allow_pickle: bool = False) -> Source:
    """Read a model file; code in it never runs unless ``allow_pickle`` is given.

    Args:
        path: a checkpoint of this package, a state_dict (.pt, .pth, .safetensors), an exported program (.pt2), or, with
            ``allow_pickle``, a whole pickled module.
        factory: "package.module:callable", which builds the module that a state_dict fits.
        input_shapes: shapes of float32 example inputs, in the order of the model's arguments or by their names.
        allow_pickle: trust the file.

    Raises:
        LoadError: what was wrong with the file or the arguments.
    """
    path = Path(path)
    kind = torch_files.kind(path)
    if kind == "torchscript":
        raise LoadError(f"{path} is a TorchScript archive; save the state_dict or a .pt2 of the original module instead")
    if kind == "pt2":
        return _program(path, factory, input_shapes, allow_pickle)
    content = _tensors(path) if kind == "safetensors" else _content(path, allow_pickle)
    if checkpoint.is_checkpoint(content):
        _unused(path, "checkpoint", factory=factory)
        model, example = checkpoint.build(content, path)
        return _source(path, "checkpoint", model, _examples(model, input_shapes) or (example,))
    if isinstance(content, nn.Module):
        _unused(path, "pickled module", factory=factory)
        return _source(path, "pickled module", content.cpu().eval(), _needed(path, content, input_shapes))
    state = _state_dict(path, content)
    model = _build(path, factory)
    checkpoint.load_weights(model, state, path)
    return _source(path, "state_dict", model.cpu().eval(), _needed(path, model, input_shapes))


def _source(path: Path, kind: str, model: nn.Module, inputs: tuple[Tensor, ...]) -> Source:
    return adopting(Source(model, inputs, None, kind, path.name, sha256(path)))


def adopting(source: Source) -> Source:
    """The same with activations of other libraries replaced by ours, in a copy of the model.

    Raises:
        LoadError: one of them cannot be represented.
    """
    try:
        done = adopted_copy(source.model)
    except ReplacementError as error:
        raise LoadError(f"{source.name}: {error}") from None
    if not done.modules:
        return replace(source, left=done.left)
    return replace(source, model=done.model, original=source.model, adopted=done.modules, left=done.left)


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content(path: Path, allow_pickle: bool) -> Any:
    if not allow_pickle:
        return torch_files.load_plain(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=False)
    except Exception as error:  # anything may happen: the file's own code runs
        raise LoadError(f"{path} cannot be unpickled: {type(error).__name__}: {error}") from None


def _tensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        content: dict[str, Tensor] = load_file(path)
        return content
    except (SafetensorError, OSError) as error:
        raise LoadError(f"{path} is not a safetensors file: {error}") from None


def _state_dict(path: Path, content: Any) -> dict[str, Tensor]:
    if isinstance(content, dict) and isinstance(content.get("state_dict"), dict):
        content = content["state_dict"]  # the habit of many training scripts
    if not isinstance(content, dict) or not content or not all(isinstance(v, Tensor) for v in content.values()):
        raise LoadError(
            f"{path} holds {type(content).__name__}, expected a checkpoint of this package, a state_dict (names to "
            "tensors) or, with --allow-pickle, a module"
        )
    return content


def _build(path: Path, factory: str | None) -> nn.Module:
    if factory is None:
        raise LoadError(
            f"{path} holds a state_dict, which does not say what model it belongs to; pass --model package.module:factory, "
            "a callable without arguments that returns the module"
        )
    module_name, _, attribute = factory.partition(":")
    if not module_name or not attribute:
        raise LoadError(f"--model is {factory!r}; expected package.module:factory")
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    try:
        target: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    except (ImportError, AttributeError) as error:
        raise LoadError(f"--model {factory} cannot be imported: {error}") from None
    try:
        model = target()
    except Exception as error:  # the user's own code
        raise LoadError(f"--model {factory} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise LoadError(f"--model {factory} returned {type(model).__name__}, expected a torch.nn.Module")
    return model


def _program(path: Path, factory: str | None, shapes: Shapes | None, allow_pickle: bool) -> Source:
    _unused(path, "exported program", factory=factory, shapes=shapes)
    import opau_onnx.nn  # noqa: F401  (the program may hold our operator)

    try:
        if allow_pickle:
            program = torch.export.load(path)
        else:
            with pt2_scan.checked_copy(path) as copy:
                program = torch.export.load(copy)
        model = program.module()
    except LoadError:
        raise
    except Exception as error:
        raise LoadError(f"{path} cannot be read as an exported program: {type(error).__name__}: {error}") from None
    arguments, keywords = program.example_inputs or ((), {})
    inputs = tuple(arguments)
    if keywords or not inputs or not all(isinstance(v, Tensor) for v in inputs):
        raise LoadError(f"{path} was exported with example inputs that are not plain positional tensors; export it so")
    return Source(model, inputs, program, "exported program", path.name, sha256(path))


def _unused(path: Path, kind: str, factory: str | None = None, shapes: Shapes | None = None) -> None:
    for option, value in (("--model", factory), ("--input-shape", shapes)):
        if value:
            raise LoadError(f"{path} is a {kind}, which needs no {option}; leave it out")


def _needed(path: Path, model: nn.Module, shapes: Shapes | None) -> tuple[Tensor, ...]:
    examples = _examples(model, shapes)
    if examples is None:
        raise LoadError(f"{path} holds no example input; pass --input-shape, e.g. --input-shape 1,3,224,224, once per input")
    return examples


def _examples(model: nn.Module, shapes: Shapes | None) -> tuple[Tensor, ...] | None:
    if not shapes:
        return None
    if isinstance(shapes, Mapping):
        names = input_names(model, len(shapes))
        unknown = sorted(set(shapes) - set(names))
        if unknown:
            raise LoadError(f"--input-shape names {unknown[0]!r}; the model takes {', '.join(names)}")
        shapes = [shapes[name] for name in names]
    generator = torch.Generator().manual_seed(0)
    return tuple(torch.randn(shape, generator=generator) for shape in shapes)


def as_source(model: Any, inputs: Tensor | Sequence[Tensor] | None) -> Source:
    """A module with its example inputs, or a file, as a source.

    Raises:
        LoadError, ExportError: the file cannot be read, or the module comes without inputs or in training mode.
    """
    if isinstance(model, (str, Path)):
        model = load(Path(model))
    examples = (inputs,) if isinstance(inputs, Tensor) else tuple(inputs or ())
    if isinstance(model, Source):
        return model
    if _is_keras(model):
        from opau_onnx.keras import to_torch_model

        model = to_torch_model(model)
    if not isinstance(model, nn.Module):
        raise ExportError(f"cannot export {type(model).__name__}; expected a torch.nn.Module or a path")
    if not examples or not all(isinstance(x, Tensor) for x in examples):
        raise ExportError("a module needs example inputs, tensors: export_model(module, path, inputs)")
    if model.training:
        raise ExportError("the module is in training mode; call model.eval() first")
    return adopting(Source(model, examples, None, "module", type(model).__name__, None))


def _is_keras(model: Any) -> bool:
    """True for a Keras model; where nobody imported Keras there is none."""
    kind = getattr(sys.modules.get("keras"), "Model", None)
    return kind is not None and isinstance(model, kind)
