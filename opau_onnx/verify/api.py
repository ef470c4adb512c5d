"""``verify_model``: is it the same model, in every runtime at hand?"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opau_onnx.compare import batches as data
from opau_onnx.compare.batches import Batches
from opau_onnx.compare.examples import file_runs
from opau_onnx.compare.file_reference import FileReference
from opau_onnx.compare.isolated import Function
from opau_onnx.compare.names import ONNX_SUFFIX, PYTORCH, RUNTIMES, TORCH
from opau_onnx.compare.sizes import module_runs, size_batches
from opau_onnx.compare.sketches import Watcher
from opau_onnx.compare.torch_reference import TorchReference
from opau_onnx.config import VerifyConfig
from opau_onnx.errors import ValidationError
from opau_onnx.graph.whole import whole_file
from opau_onnx.io.quiet import quiet
from opau_onnx.io.samples import Samples, read_samples
from opau_onnx.io.source import Source, as_source, sha256
from opau_onnx.nn.casting import cast_inputs, input_names
from opau_onnx.verify import findings
from opau_onnx.verify.activations import calls_of, check_activations, check_weights, openers
from opau_onnx.verify.files import VerifiedFile, close_runs, open_runs, read_file
from opau_onnx.verify.layers import Subject, look_inside
from opau_onnx.verify.onnx_model import OnnxModel, read_onnx_model
from opau_onnx.verify.report import FileResult, VerifyResult, check_writable, file_record, torch_record, write_reports
from opau_onnx.verify.runs import ReferenceRun, Work, run_batches

Progress = Callable[[str], None]
Model = Source | OnnxModel
"""With which files are compared."""


def verify_model(
    model: nn.Module | Model | str | Path,
    files: str | Path | Sequence[str | Path],
    inputs: Any = None,
    *,
    data: Samples | str | Path | None = None,
    settings: VerifyConfig | None = None,
    report: str | Path | None = None,
    html: str | Path | None = None,
    progress: Progress = lambda step: None,
    **options: Any,
) -> VerifyResult:
    """Compare a PyTorch model, or an ONNX file, with ONNX files of it, in every runtime at hand.

    Args:
        model: a module in evaluation mode, a file that :func:`opau_onnx.load` reads without further arguments, or its result;
            or an ONNX file (or what :func:`opau_onnx.verify.read_onnx_model` made of it): then the files are compared with
            what onnxruntime makes of that one, and activations are not looked at one by one.
        files: one .onnx file or several.
        inputs: example inputs for a module, a tensor, positional ones, or a mapping of keyword ones, nested as the module takes
            them (:func:`opau_onnx.io.calling.arguments`); files bring their own.
        data: what to compare on, with labels where they are known: see :func:`opau_onnx.io.samples.read_samples`. Without it
            the example inputs and random ones are taken, as in opau-export's check.
        settings: what to do; or give its fields as keyword arguments (``runtimes=["ort-kernel"], layerwise=True``).
        report, html: files to write the report to, as JSON and as a page with figures that loads nothing.
        progress: called with a short text before each step.
        options: fields of :class:`VerifyConfig`.

    Returns:
        What was found: ``result.equal`` is the verdict on all that ran, ``result.complete`` whether all that was asked for ran.

    Raises:
        LoadError, ValidationError, ExportError: the model, the files or the data cannot be read, do not belong together, or no
            runtime can run a file.
    """
    settings = VerifyConfig(**options) if settings is None else settings
    _check(settings)
    json_file, page = (None if path is None else Path(path) for path in (report, html))
    check_writable(json_file, page)
    source = _reference(model, inputs, settings)
    paths = [Path(files)] if isinstance(files, (str, Path)) else [Path(file) for file in files]
    if not paths:
        raise ValidationError("no file is given to compare the model with")
    with quiet(), ExitStack() as stack:
        whole = [stack.enter_context(whole_file(path)) for path in paths]
        if isinstance(source, OnnxModel):
            source = replace(source, path=stack.enter_context(whole_file(source.path)))
        result = _verify(source, whole, data, settings, progress)
        for found in result.files:
            origin = paths[whole.index(found.file.path)]
            if origin != found.file.path:  # runs are over
                found.file.path, found.file.sha256 = origin, sha256(origin)
    if json_file or page:
        progress("writing the report")
        write_reports(result, json_file, page)
    return result


def _reference(model: Any, inputs: Any, settings: VerifyConfig) -> Model:
    if isinstance(model, (str, Path)) and Path(model).suffix == ONNX_SUFFIX:
        model = read_onnx_model(Path(model), inputs, seed=settings.seed)
    if not isinstance(model, OnnxModel):
        return as_source(model, inputs)
    if settings.layerwise:
        raise ValidationError(
            f"layers are matched with a PyTorch model's, and {model.name} is an ONNX file; leave out layerwise"
        )
    return model


def _check(settings: VerifyConfig) -> None:
    """Raise ValidationError for what cannot be done."""
    unknown = [name for name in settings.runtimes or () if name not in RUNTIMES]
    if unknown:
        raise ValidationError(f"unknown runtime {', '.join(map(repr, unknown))}; expected some of {', '.join(RUNTIMES)}")
    if settings.runtimes is not None and not set(settings.runtimes) - {TORCH}:
        raise ValidationError("there is no runtime to compare PyTorch with; name another one besides torch")
    if settings.min_agreement is not None and not 0 <= settings.min_agreement <= 1:
        raise ValidationError(f"min_agreement is {settings.min_agreement}; expected a share from 0 to 1")
    if settings.batch < 1 or (settings.limit is not None and settings.limit < 1):
        raise ValidationError(f"batch is {settings.batch} and limit is {settings.limit}; expected at least 1")


def _verify(
    source: Model,
    paths: Sequence[Path],
    given: Samples | str | Path | None,
    settings: VerifyConfig,
    progress: Progress,
) -> VerifyResult:
    samples = _samples(source, given, settings)
    opened = [read_file(path, source) for path in paths]
    calls = {} if isinstance(source, OnnxModel) else calls_of(source)
    results: list[FileResult] = []
    source_of_data, record = samples.source if samples else "", torch_record()
    try:
        for group in _groups(opened):
            shared = _run_group(source, group, samples, settings, progress)
            source_of_data, record = shared.batches.source, shared.record
            for file in group:
                results.append(_inspect(source, file, calls, shared, settings, progress))
                close_runs(file)
    finally:
        for file in opened:
            close_runs(file)
    results.sort(key=lambda r: opened.index(r.file))
    return VerifyResult(source, record, results, source_of_data, settings.min_agreement, settings.runtimes, _plain(settings))


def _plain(settings: VerifyConfig) -> dict[str, Any]:
    found = dict(vars(settings))
    return found | {"runtimes": None if settings.runtimes is None else list(settings.runtimes)}


def _samples(source: Model, given: Samples | str | Path | None, settings: VerifyConfig) -> Samples | None:
    if given is None:
        return None
    names = source.names if isinstance(source, OnnxModel) else input_names(source.model, len(source.inputs))
    found = given if isinstance(given, Samples) else read_samples(given, names)
    if len(found.inputs) != len(source.inputs):
        raise ValidationError(f"{found.source} has {len(found.inputs)} inputs, the model {len(source.inputs)}")
    if settings.limit is None or settings.limit >= len(found):
        return found
    return replace(found.first(settings.limit), source=f"{found.source}, the first {settings.limit:,}")


def _groups(files: Iterable[VerifiedFile]) -> list[list[VerifiedFile]]:
    """Files that PyTorch's results can serve together: one dtype, one batch."""
    found: dict[tuple[str, int | None, int], list[VerifiedFile]] = {}
    for file in files:
        found.setdefault((file.kind, file.fixed, len(file.outputs)), []).append(file)
    return list(found.values())


@dataclass
class _Shared:
    """Shared work on the files of a group."""

    batches: Batches
    reference: ReferenceRun
    record: dict[str, str]
    watcher: Watcher


def _run_group(
    source: Model,
    group: Sequence[VerifiedFile],
    samples: Samples | None,
    settings: VerifyConfig,
    progress: Progress,
) -> _Shared:
    first = group[0]
    reference: TorchReference | FileReference
    if isinstance(source, OnnxModel):
        reference = FileReference(source.path, source.inputs, settings.seed, kind=first.kind)
        runs_on, record = file_runs(reference.runtime), file_record(source.name, reference.runtime.description)
        examples: Sequence[Tensor] = source.inputs
    else:
        reference = TorchReference(source.model, first.dtype, settings.seed)
        runs_on, record = module_runs(reference.single), torch_record()
        examples = cast_inputs(source.inputs, torch.float32)
    if samples is None:
        sizes = size_batches(examples, first.axes, settings.seed, runs_on)
        made = data.of_examples(source.inputs, first.axes, settings.options, sizes.batches)
    else:
        made = data.of_samples(samples, first.axes, settings.batch, first.fixed)
    for file in group:
        progress(f"opening {file.path.name}")
        open_runs(file, source, settings.runtimes or RUNTIMES, settings.reference_seconds)
    watcher = Watcher(len(made.parts), settings.seed)
    watched = (reference.single, watcher) if isinstance(reference, TorchReference) else None
    runs = [run for file in group for run in file.runs]
    agreement = made.labels or settings.min_agreement is not None
    work = Work(made, reference, first.dtype, runs, settings.options, agreement, watched)
    return _Shared(made, run_batches(work, progress), record, watcher)


def _inspect(
    source: Model, file: VerifiedFile, calls: Any, shared: _Shared, settings: VerifyConfig, progress: Progress
) -> FileResult:
    if not file.ran:
        reasons = "; ".join(f"{run.name}: {run.reason}" for run in file.runs)
        raise ValidationError(f"no runtime that was asked for can run {file.path}: {reasons}")
    made, least = shared.batches, settings.min_agreement
    result = FileResult(file, shared.reference, made.samples, made.left_out, [], [], least)
    if isinstance(source, OnnxModel):
        for run in file.runs:
            result.findings += findings.of_run(file.path.name, run, least, source.name)
        return result
    progress(f"the activations of {file.path.name}")
    loose = settings.atol is not None or settings.rtol is not None
    result.activations = check_activations(file, calls, shared.watcher.sketches, loose=loose)
    result.weights = check_weights(file, source)
    for found in result.activations:
        result.findings += findings.of_activation(file.path.name, found)
    result.findings += findings.of_nan(file.path.name, result.activations)
    for run in file.runs:
        result.findings += findings.of_run(file.path.name, run, least, PYTORCH)
    if settings.layerwise:
        progress(f"the layers of {file.path.name}")
        functions = {key: Function.of(call, file.kind) for key, call in calls.items()}
        subject = Subject(
            source.model, file.path, file.model, file.matched, functions, file.dtype, openers(file), settings.options,
            cut=file.fixed is None, loose=loose,
        )  # fmt: skip
        result.inside = look_inside(subject, _worst_batches(file, made))
        known = {(f.where, runtime) for f in result.findings if f.kind == "activation" for runtime in f.runtimes}
        result.findings += findings.of_layers(file.path.name, result.inside, known, fails=not loose)
    if not result.equal:
        result.findings += findings.of_weights(file.path.name, result.weights)
    return result


def _worst_batches(file: VerifiedFile, made: Batches) -> list[tuple[Tensor, ...]]:
    """The first batch, and that in which a runtime used most of its tolerance."""
    found = {0}
    for run in file.ran:
        found.add(max(range(len(run.needed)), key=run.needed.__getitem__, default=0))
    return [made.parts[i].inputs for i in sorted(found)]
