"""A file on disk -> a model ready to export, with example inputs."""

from __future__ import annotations

import hashlib
import importlib
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opau_onnx.errors import ExportError, LoadError, ReplacementError
from opau_onnx.io import calling, checkpoint, pt2_scan, states, torch_files
from opau_onnx.nn.adopting import Adopted, adopted_copy
from opau_onnx.nn.casting import input_names
from opau_onnx.nn.transformers import shadowed


@dataclass(frozen=True, repr=False)
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
        notes: what was chosen, assumed or left out, for people.
        outputs: names of the outputs; None where the model's result names them, or nothing does.
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
    notes: tuple[str, ...] = ()
    outputs: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        shapes = ", ".join(f"{str(x.dtype).removeprefix('torch.')}{list(x.shape)}" for x in self.inputs)
        return f"Source({self.name!r}, {self.kind}, {type(self.model).__name__}, inputs: {shapes})"


Shapes = Sequence[tuple[int, ...]] | Mapping[str, tuple[int, ...]]


def load(
    path: Path,
    *,
    factory: str | None = None,
    input_shapes: Shapes | None = None,
    allow_pickle: bool = False,
    key: str | None = None,
    strip_prefix: str | None = None,
    inputs: Path | Any = None,
) -> Source:
    """Read a model file; code in it never runs unless ``allow_pickle`` is given.

    Args:
        path: a checkpoint of this package, a state_dict (.pt, .pth, .safetensors), an exported program (.pt2), or, with
            ``allow_pickle``, a whole pickled module.
        factory: "package.module:callable", which builds the module that a state_dict fits.
        input_shapes: shapes of example inputs, in the order of the model's arguments or by their names; float32, or what an
            attribute ``dtype`` of a shape names.
        inputs: the example inputs themselves, as :func:`opau_onnx.io.calling.arguments` takes them, or a .npz file of them.
        allow_pickle: trust the file; the classes that it names are looked for in the working folder too.
        key, strip_prefix: which of several state_dicts in the file, and what the names of its weights begin with besides;
            found where they are not given (:mod:`opau_onnx.io.states`), and told in ``notes``.

    Raises:
        LoadError: what was wrong with the file or the arguments.
    """
    path = Path(path)
    kind = torch_files.kind(path)
    if kind == "torchscript":
        raise LoadError(f"{path} is a TorchScript archive; save the state_dict or a .pt2 of the original module instead")
    if kind == "pt2":
        _unused(path, "exported program", factory=factory, shapes=input_shapes, key=key, prefix=strip_prefix, inputs=inputs)
        return _program(path, allow_pickle)
    content = _tensors(path) if kind == "safetensors" else _content(path, allow_pickle)
    if checkpoint.is_checkpoint(content):
        _unused(path, "checkpoint", factory=factory, key=key, prefix=strip_prefix)
        model, example = checkpoint.build(content, path)
        given = inputs if inputs is not None else _examples(model, input_shapes) or (example,)
        return _source(path, "checkpoint", model, given)
    if isinstance(content, nn.Module):
        _unused(path, "pickled module", factory=factory, key=key, prefix=strip_prefix)
        content = _unwrapped(content)
        return _source(path, "pickled module", content.cpu().eval(), _needed(path, content, input_shapes, inputs))
    if not states.candidates(content):
        states.choose(content, nn.Identity(), path)  # raises, before a factory is asked for
    model = _unwrapped(_build(path, factory))
    chosen = states.choose(content, model, path, key, strip_prefix)
    assumed = checkpoint.load_weights(model, chosen.state, path)
    source = _source(path, "state_dict", model.cpu().eval(), _needed(path, model, input_shapes, inputs))
    return replace(source, notes=chosen.notes + assumed)


def _source(path: Path, kind: str, model: nn.Module, inputs: Any) -> Source:
    given = calling.arguments(model, calling.read_inputs(inputs) if isinstance(inputs, (str, Path)) else inputs)
    return adopting(Source(model, given.tensors, None, kind, path.name, sha256(path)), given)


def adopting(source: Source, given: calling.Arguments | None = None) -> Source:
    """The same as a function of tensors, with activations of other libraries replaced by ours, in a copy of the model.

    Args:
        source: what was read.
        given: how its model is called; None for the tensors in ``source.inputs`` in order.

    Raises:
        LoadError: one of them cannot be represented, or a weight is NaN or infinite.
    """
    _check_finite(source)
    model, inputs, outputs, notes = calling.called(source.model, given or calling.arguments(source.model, source.inputs))
    source = replace(source, model=model, inputs=inputs, outputs=outputs, notes=source.notes + notes)
    for name in shadowed(source.model):
        raise LoadError(
            f"{source.name}: {name or 'the model'}: PyTorch's copy of a TransformerDecoderLayer has set ReLU over its learned "
            "activation, which is not used then; call opau_onnx.nn.replace_activations after the layer was copied"
        )
    try:
        done = adopted_copy(source.model)
    except ReplacementError as error:
        raise LoadError(f"{source.name}: {error}") from None
    if not done.modules:
        return replace(source, left=done.left)
    return replace(source, model=done.model, original=source.model, adopted=done.modules, left=done.left)


def _check_finite(source: Source) -> None:
    """Infinite buffers are let through: masks hold them."""
    parameters, buffers = source.model.named_parameters(), source.model.named_buffers()
    bad = [name for name, p in parameters if p.is_floating_point() and not _all(p, torch.isfinite)]
    bad += [name for name, b in buffers if b.is_floating_point() and not _all(b, lambda part: ~torch.isnan(part))]
    if bad:
        raise LoadError(
            f"{source.name}: {', '.join(bad[:4])}{' ..' if len(bad) > 4 else ''} hold{'s' if len(bad) == 1 else ''} NaN or "
            "infinity; a file of it could not be told from any other. Look at the training run"
        )


def _all(values: torch.Tensor, test: Callable[[torch.Tensor], torch.Tensor]) -> bool:
    """A part at a time: the test takes memory of the size of its argument."""
    return all(bool(test(part).all()) for part in torch.split(values.detach().flatten(), 1 << 20))


def sha256(path: Path) -> str:
    """Hash of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _content(path: Path, allow_pickle: bool) -> Any:
    if not allow_pickle:
        return torch_files.load_plain(path)
    _working_folder()
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


def _build(path: Path, factory: str | None) -> nn.Module:
    if factory is None:
        raise LoadError(
            f"{path} holds a state_dict, which does not say what model it belongs to; pass --model package.module:factory, "
            "a callable without arguments that returns the module"
        )
    module_name, _, attribute = factory.partition(":")
    if not module_name or not attribute:
        raise LoadError(f"--model is {factory!r}; expected package.module:factory")
    _working_folder()
    try:
        target: Any = importlib.import_module(module_name)
        for part in attribute.split("."):
            target = getattr(target, part)
    except (Exception, SystemExit) as error:  # the user's own code
        raise LoadError(f"--model {factory} cannot be imported: {type(error).__name__}: {error}") from error
    try:
        model = target()
    except (Exception, SystemExit) as error:  # the user's own code
        raise LoadError(f"--model {factory} failed: {type(error).__name__}: {error}") from error
    if not isinstance(model, nn.Module):
        raise LoadError(f"--model {factory} returned {type(model).__name__}, expected a torch.nn.Module")
    return model


def _working_folder() -> None:
    """Let Python find modules in the working folder, as ``python -m`` does."""
    folder = str(Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _program(path: Path, allow_pickle: bool) -> Source:
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
    source = Source(model, inputs, program, "exported program", path.name, sha256(path))
    _check_finite(source)
    return source


def _unused(
    path: Path, kind: str, factory: str | None = None, shapes: Shapes | None = None, key: str | None = None,
    prefix: str | None = None, inputs: Any = None,
) -> None:  # fmt: skip
    options = {"--model": factory, "--input-shape": shapes, "--key": key, "--strip-prefix": prefix, "--inputs": inputs}
    for option, value in options.items():
        if value is not None and value != () and value != {}:
            raise LoadError(f"{path} is a {kind}, which needs no {option}; leave it out")


def _needed(path: Path, model: nn.Module, shapes: Shapes | None, inputs: Any) -> Any:
    if inputs is not None:
        if shapes:
            raise LoadError("--inputs and --input-shape exclude each other; the file says the shapes")
        return inputs
    examples = _examples(model, shapes)
    if examples is None:
        raise LoadError(
            f"{path} holds no example input; pass --input-shape, e.g. --input-shape 1,3,224,224 or ids:int64:1,128, once per "
            "input, or --inputs FILE.npz"
        )
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
    return tuple(_example(shape, generator) for shape in shapes)


def _example(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Normal numbers; whole ones are 0 and 1, which any table of tokens has."""
    dtype: torch.dtype = getattr(torch, getattr(shape, "dtype", "float32"))
    if dtype.is_floating_point:
        return torch.randn(shape, generator=generator).to(dtype)
    return torch.randint(0, 2, shape, generator=generator).to(dtype)


def as_source(model: Any, inputs: Any = None) -> Source:
    """A module with its example inputs, or a file, as a source.

    Args:
        model: a module, a path, a source or a Keras model.
        inputs: of a module, as :func:`opau_onnx.io.calling.arguments` takes them.

    Raises:
        LoadError, ExportError: the file cannot be read, or the module comes without inputs or in training mode.
    """
    if isinstance(model, (str, Path)):
        model = load(Path(model))
    if isinstance(model, Source):
        return model
    if _is_keras(model):
        from opau_onnx.keras import to_torch_model

        model = to_torch_model(model)
    model = _unwrapped(model)
    if not isinstance(model, nn.Module):
        raise ExportError(f"cannot export {type(model).__name__}; expected a torch.nn.Module or a path")
    given = calling.arguments(model, inputs)
    if model.training:
        raise ExportError("the module is in training mode; call model.eval() first")
    if training := [name for name, module in model.named_modules() if module.training]:
        raise ExportError(
            f"{len(training)} modules inside are in training mode ({', '.join(training[:4])}), and a file holds what eval() "
            "computes; call model.eval() on the whole model"
        )
    return adopting(Source(model, given.tensors, None, "module", type(model).__name__, None), given)


def _unwrapped(model: Any) -> Any:
    """The module inside torch.compile's, DataParallel's, DistributedDataParallel's and AveragedModel's.

    Raises:
        ExportError: a TorchScript module, which holds no activation that could be exported.
    """
    wrappers = (nn.DataParallel, nn.parallel.DistributedDataParallel, torch.optim.swa_utils.AveragedModel)
    while True:
        if isinstance(model, torch.jit.ScriptModule):
            raise ExportError("cannot export a TorchScript module; give the torch.nn.Module that it was made from")
        dynamo = sys.modules.get("torch._dynamo")  # slow to load, and there where something was compiled
        if dynamo is not None and isinstance(model, dynamo.OptimizedModule):
            model = model._orig_mod
        elif isinstance(model, wrappers):
            model = model.module
        else:
            return model


def _is_keras(model: Any) -> bool:
    """True for a Keras model; where nobody imported Keras there is none."""
    kind = getattr(sys.modules.get("keras"), "Model", None)
    return kind is not None and isinstance(model, kind)
