"""Where the op library of a deployment comes from, and where Triton finds it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from opau_onnx.deploy import library
from opau_onnx.deploy.library import Facts
from opau_onnx.deploy.onnx_file import OnnxFile
from opau_onnx.deploy.options import Options, absolute
from opau_onnx.errors import DeployError, LibraryError
from opau_onnx.io.atomic import replacing
from opau_onnx.native.library import get_library_path


@dataclass(frozen=True)
class Library:
    """The op library: the file here, what is known of it, the path that Triton is told, and whether it is copied there."""

    source: Path | None = None
    facts: Facts | None = None
    target: str | None = None
    copied: bool = False


def wanted(file: OnnxFile, options: Options, there: str) -> Library:
    """Requirements of a file and the options.

    Args:
        file: the model.
        options: of the deployment.
        there: the path of the repository on the machine where Triton runs.

    Raises:
        DeployError: the options make no sense for this file.
        LibraryError: the library is missing or does not cover the model.
    """
    path = absolute("library_path", options.library_path)
    if not file.contents.nodes or not options.library:
        if path is not None:
            raise DeployError("library_path is given, but the model has no learned activation, or the library is not wanted")
        return Library()
    reason = file.contents.uncovered()
    if reason is not None:
        raise LibraryError(f"the op library cannot be used: {reason}")
    source = Path(get_library_path())
    facts = library.read(source)
    if options.device == "cuda" and facts.cuda is None and path is None:
        raise LibraryError(
            "the op library was built without CUDA, and every activation would run on the CPU; build it with nvcc, name one "
            "that lies on the server (--library-path), or leave it out (--no-library)"
        )
    if path is not None:
        return Library(source, facts, path)
    return Library(source, facts, f"{there.rstrip('/')}/{facts.name}", copied=True)


def place(needed: Library, repository: Path) -> None:
    """Put the library's copy into the repository where it is wanted there, and what is known of it."""
    if needed.facts is None or needed.source is None:
        return
    with replacing(repository / needed.facts.name.replace(".so", ".json")) as temporary:
        temporary.write_text(needed.facts.text(), encoding="utf-8")
    if needed.copied and not (repository / needed.facts.name).exists():
        with replacing(repository / needed.facts.name) as temporary:
            temporary.write_bytes(needed.source.read_bytes())
