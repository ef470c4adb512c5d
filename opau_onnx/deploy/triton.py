"""``deploy_triton``: an ONNX file becomes a model of a Triton model repository."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from google.protobuf import text_format

from opau_onnx._version import __version__
from opau_onnx.deploy import check, configure, library, onnx_file, placing, readme, releases, repository
from opau_onnx.deploy.library import Facts
from opau_onnx.deploy.options import Options, absolute, check_device, model_name
from opau_onnx.errors import DeployError

Progress = Callable[[str], None]


@dataclass(frozen=True)
class Result:
    """Result: files written.

    Attributes:
        folder: of the model.
        readme: of the repository.
        config: the ModelConfig.
        library: where Triton loads the op library from; None without one.
        facts: of the op library that the model was checked with.
        notes: what a user should know.
    """

    folder: Path
    readme: Path
    config: Any
    library: str | None
    facts: Facts | None
    notes: tuple[str, ...]


def deploy_triton(
    model: str | Path, folder: str | Path, options: Options | None = None, *, progress: Progress = lambda step: None
) -> Result:
    """Write ``folder/NAME/config.pbtxt`` and ``folder/NAME/1/model.onnx``, the op library and a README.md.

    What is written is opened with onnxruntime first, as Triton's backend does it, and compared with the schema and the rules of
    Triton; nothing is written where it would not load.

    Args:
        model: an .onnx file; weights in other files are copied too.
        folder: the model repository; made where it is missing.
        options: how it is served.
        progress: called with a short text before each step.

    Raises:
        DeployError: the model cannot be served so, or a model of that name is there.
        LibraryError: the op library is missing, or not one of Linux.
        LoadError: onnxruntime cannot load or run the model.
        OSError: a file cannot be written.
    """
    model, target, options = Path(model), Path(folder), options or Options()
    name = model_name(model, options)
    check_device(options)
    there = absolute("repository_path", options.repository_path) or target.resolve().as_posix()
    if (target / name).exists() and not options.replace:
        raise DeployError(f"{target / name} exists; replace it (--replace), or give the model another name (--name)")
    progress(f"reading {model}")
    file = onnx_file.read(model)
    needed = placing.wanted(file, options, there)
    library.recorded(target)  # the README tells of them too: better an error now than half way
    with repository.existing(target), repository.staging(target) as staged:
        copy = repository.copy_model(model, file.external, staged / name / "1")
        progress("opening it with onnxruntime")
        config, notes = configure.configured(name, model, copy, file, needed, options)
        check.check(config, file.inputs, file.outputs)
        notes += releases.warnings(needed.facts, file.opset, file.ir_version)
        text = _text(config, model, file, notes)
        if check.parse(text) != config:
            raise DeployError("the text of config.pbtxt does not read back as what was written")  # a fault of the text format
        (staged / name / "config.pbtxt").write_text(text, encoding="utf-8")
        progress("writing")
        placing.place(needed, target)
        repository.publish(staged / name, target / name)
        written = readme.write(target, there)
    return Result(target / name, written, config, needed.target, needed.facts, tuple(notes))


def _text(config: Any, model: Path, file: onnx_file.OnnxFile, notes: list[str]) -> str:
    lines = [f"written by opau-deploy {__version__} for {model.name}, SHA-256 {file.sha256}", *notes]
    # Names may hold anything, line ends too.
    comments = "".join(f"# {line.encode('unicode_escape').decode()}\n" for line in lines)
    return comments + str(text_format.MessageToString(config))
