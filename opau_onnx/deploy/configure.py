"""From a file and options to the ModelConfig: the model is opened and run as Triton's backend does it."""

from __future__ import annotations

import platform
from pathlib import Path
from typing import Any

import msgspec
import onnxruntime

from opau_onnx.deploy import backend
from opau_onnx.deploy.onnx_file import OnnxFile
from opau_onnx.deploy.options import Options, check_unbatched
from opau_onnx.deploy.placing import Library
from opau_onnx.errors import DeployError, LoadError
from opau_onnx.protocol.model_config import WarmUp, model_config
from opau_onnx.serve import independence, warmup
from opau_onnx.serve.config import ModelSettings
from opau_onnx.serve.sessions import CpuRunner, Opened, open_model


def configured(name: str, model: Path, copy: Path, file: OnnxFile, needed: Library, options: Options) -> tuple[Any, list[str]]:
    """The message, and notes of how it came about.

    Args:
        name: of the model.
        model: the file as the user named it, for messages.
        copy: its copy, which is opened.
        file: what the file says of itself.
        needed: the op library.
        options: of the deployment.

    Raises:
        DeployError, LibraryError, LoadError: as :func:`opau_onnx.deploy.triton.deploy_triton`.
    """
    notes: list[str] = []
    settings = _settings(model, file, needed, options, notes)
    opened = _opened(settings, copy, file, options, notes)
    largest, alone = warmup.batch_size(settings, opened)
    row = warmup.shapes(settings, opened.inputs)
    if row is None:
        notes.append("no warm-up and no run here: axes other than the first are open; give --input-shape")
    elif opened.sessions:
        _check_run(opened, row, largest)
    if largest and options.batch_check and (reason := _dependence(opened, row, largest)) is not None:
        if options.max_batch_size:
            raise DeployError(
                f"max_batch_size is {largest}, but {reason}; set it to 0, or leave the check out (--no-batch-check)"
            )
        largest, alone = 0, reason
    if alone:
        check_unbatched(options, alone)
        notes.append(f"requests are not batched: {alone}")
    parameters, cuda = backend.split_cuda(options.cuda)
    parameters |= backend.check_parameters(options.parameters)
    if options.threads:
        if "intra_op_thread_count" in parameters:
            raise DeployError("threads and the parameter intra_op_thread_count are one; give one of them")
        parameters["intra_op_thread_count"] = str(options.threads)
    config = model_config(
        name, opened.inputs, opened.outputs, max_batch_size=largest, delay_us=options.max_batch_delay_us,
        preferred=options.preferred, instances=options.instances, device=options.device, library=needed.target,
        parameters=dict(sorted(parameters.items())), cuda=cuda, gpus=options.gpus, queue=options.queue,
        warmup=_warmup(row, largest, options) if options.warmup else (),
    )  # fmt: skip
    return config, notes


def _settings(model: Path, file: OnnxFile, needed: Library, options: Options, notes: list[str]) -> ModelSettings:
    use = "no" if needed.source is None else str(needed.source)
    if needed.facts is not None and needed.facts.machine != platform.machine():
        notes.append(f"checked with the functions of the file: the op library is one for {needed.facts.machine}")
        use = "no"
    return ModelSettings(
        path=str(model),
        device="cpu" if options.device == "cpu" else "auto",
        library=use,
        max_batch_size=options.max_batch_size,
        input_shapes=dict(options.input_shapes),
        batch_check=options.batch_check,
    )


def _opened(settings: ModelSettings, copy: Path, file: OnnxFile, options: Options, notes: list[str]) -> Opened:
    """The copy, opened as the backend opens it: the library registered, then a session of the path."""
    try:
        opened = open_model(msgspec.structs.replace(settings, path=str(copy)))
    except LoadError as error:
        reason = str(error).replace(str(copy), settings.path)
        if options.device == "cpu":
            raise LoadError(reason) from None
        # A model for a GPU may hold what onnxruntime's CPU does not run, and there may be no GPU here.
        notes.append(f"not opened here, so its tensors are those that the file names: {reason}")
        return Opened((), file.inputs, file.outputs, file.symbols, "", file.sha256, file.over_rows)
    ran = f"onnxruntime {onnxruntime.__version__} ({opened.provider}; learned activations: {opened.implementation})"
    notes.append(f"opened here with {ran}")
    return opened


def _check_run(opened: Opened, row: dict[str, tuple[int, ...]], largest: int) -> None:
    """Run the model once.

    Raises:
        LoadError: it cannot be run.
        DeployError: its outputs have other shapes than the file says.
    """
    runner = CpuRunner(opened.sessions[0], opened.inputs, opened.outputs)
    try:
        got = runner.run(warmup.sample(opened.inputs, row, 1 if largest else None))
    except Exception as error:  # onnxruntime's exceptions have no common base class
        raise LoadError(f"the model cannot be run on inputs of the shapes {row}: {error}") from None
    for spec in opened.outputs:
        if not spec.fits(got[spec.name].shape):
            raise DeployError(f"output {spec} has the shape {list(got[spec.name].shape)} when it is run")


def _dependence(opened: Opened, row: dict[str, tuple[int, ...]] | None, largest: int) -> str | None:
    """Why requests must not share a batch; None where they may."""
    if opened.over_rows is not None or opened.sessions:
        runner = CpuRunner(opened.sessions[0], opened.inputs, opened.outputs) if opened.sessions else None
        return independence.dependence(runner, opened, row, largest)
    return "the model was not run here, so nothing shows that its rows do not depend on each other"


def _warmup(row: dict[str, tuple[int, ...]] | None, largest: int, options: Options) -> list[WarmUp]:
    if row is None:
        return []
    if not largest:
        return [WarmUp(1, row)]
    shapes = {name: shape[1:] for name, shape in row.items()}
    return [WarmUp(rows, shapes) for rows in sorted({1, *options.preferred, largest})]
