"""The README.md of a model repository: its models, how Triton is started on it, and which Triton fits."""

from __future__ import annotations

import shlex
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tritonclient.grpc import model_config_pb2 as pb

from opau_onnx._version import __version__
from opau_onnx.deploy import check, library, releases
from opau_onnx.errors import DeployError
from opau_onnx.io.atomic import replacing

MARK = "<!-- Written by opau-deploy, and written again with every model: changes are lost. -->"
_OURS, _OTHER = "README.md", "README.opau.md"


def write(repository: Path, there: str) -> Path:
    """Write it for the models and libraries that lie in ``repository``; a README.md that is not ours stays.

    Args:
        repository: the folder.
        there: its path on the machine that serves.

    Returns:
        The file.
    """
    path = repository / _OURS
    if path.exists() and MARK not in path.read_text(encoding="utf-8", errors="replace"):
        path = repository / _OTHER
    with replacing(path) as temporary:
        temporary.write_text(text(repository, there), encoding="utf-8")
    return path


def text(repository: Path, there: str) -> str:
    """It as text."""
    facts = library.recorded(repository)
    parts = [
        f"{MARK}\n# Triton model repository",
        _models(repository),
        _start(repository, there, facts),
        *(_library(repository, entry) for entry in facts),
        _releases(),
        _checked(),
    ]
    return "\n\n".join(parts) + "\n"


def _models(repository: Path) -> str:
    rows = ["| model | inputs | outputs | batches | runs on | op library |", "|---|---|---|---|---|---|"]
    rows += [_row(path) for path in sorted(repository.glob("*/config.pbtxt"))]
    return "\n".join(rows) + "\n\nShapes are those of one row where there are batches; -1 is any size."


def _row(path: Path) -> str:
    try:
        config = check.parse(path.read_text(encoding="utf-8"))
    except (DeployError, ValueError):  # another's model
        return f"| {path.parent.name} | config.pbtxt cannot be read | | | | |"
    batches = f"up to {config.max_batch_size} rows" if config.max_batch_size else "none"
    where = ", ".join(f"{pb.ModelInstanceGroup.Kind.Name(group.kind)} × {group.count}" for group in config.instance_group)
    libraries = ", ".join(f"`{name}`" for name in config.model_operations.op_library_filename) or "none"
    cells = (path.parent.name, _tensors(config.input), _tensors(config.output), batches, where, libraries)
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _tensors(entries: Any) -> str:
    return ", ".join(f"{e.name} {pb.DataType.Name(e.data_type).removeprefix('TYPE_')} {list(e.dims)}" for e in entries)


def _start(repository: Path, there: str, facts: list[library.Facts]) -> str:
    image = f"tritonserver:{releases.fit(facts[-1] if facts else None).suggested.name}-py3"
    mount = shlex.quote(f"{repository.resolve()}:{there}:ro")
    return (
        "## Start\n\n"
        f"    docker run --rm -p 127.0.0.1:8000:8000 -p 127.0.0.1:8001:8001 -v {mount} \\\n"
        f"        {image} tritonserver --model-repository={shlex.quote(there)}\n\n"
        f"`{image}` is NVIDIA's image; put the name of NVIDIA's registry before it. Models of KIND_GPU need `--gpus all`\n"
        f"after `docker run`. The repository has to lie at `{there}` there, since config.pbtxt names the op library by its\n"
        "absolute path, which Triton hands to onnxruntime as it is; for another place deploy again with `--repository-path`.\n"
        "From an object store Triton fetches the folders of models only: put the library on the server's disk and\n"
        "deploy with `--library-path`."
    )


def _library(repository: Path, facts: library.Facts) -> str:
    found = releases.fit(facts)
    missing = "" if (repository / facts.name).exists() else " It is not in this folder: config.pbtxt says where it has to lie."
    versions = ", ".join(f"{family} {version}" for family, version in facts.versions.items())
    lines = [
        f"## Op library `{facts.name}`\n",
        f"Of opau_onnx {facts.version}, SHA-256 `{facts.sha256}`.{missing}\n",
        f"* onnxruntime: {'not recorded' if facts.api is None else f'1.{facts.api} or newer (C interface {facts.api})'}.",
        f"* System: Linux {facts.machine}; newest symbols needed: {versions or 'none'}; loads {', '.join(facts.needed)}. "
        f"NVIDIA's containers have glibc {releases.GLIBC} (Ubuntu 24.04).",
        f"* CUDA: {_cuda(facts, found)}",
        f"* Triton: {_triton(found)}",
    ]
    return "\n".join(lines)


def _cuda(facts: library.Facts, found: releases.Fit) -> str:
    if facts.cuda is None:
        return "no kernels for it; models of KIND_GPU would run their activations on the CPU."
    major = facts.cuda.partition(".")[0]
    driver = releases.DRIVERS.get(major)
    own = not any(name.startswith("libcudart") for name in facts.needed)
    text = f"its kernels were built with CUDA {facts.cuda}" + (", whose runtime is inside of it" if own else "")
    text += f"; they need an NVIDIA driver {driver} or newer" if driver else ""
    if found.same_cuda is not None:
        text += f". Releases of Triton from {found.same_cuda.name} on have CUDA {major} too"
    return text + "."


def _triton(found: releases.Fit) -> str:
    if found.oldest is None or found.newest is None:
        return "no release that is known here carries such an onnxruntime."
    return (
        f"{found.oldest.name} (onnxruntime {found.oldest.onnxruntime}) and newer ones, of which {found.newest.name} "
        f"({found.newest.onnxruntime}) is the newest known here. Suggested: {found.suggested.name} "
        f"({found.suggested.onnxruntime}); this project ran the library with {', '.join(releases.TRIED)}, outside of Triton."
    )


def _releases() -> str:
    by_version: dict[str, list[str]] = {}
    for release in releases.all_releases():
        by_version.setdefault(release.onnxruntime, []).append(release.name)
    rows = "\n".join(f"| {version} | {', '.join(names)} |" for version, names in by_version.items())
    return (
        f"## onnxruntime in Triton's releases\n\n| onnxruntime | Triton |\n|---|---|\n{rows}\n\n"
        f"Before onnxruntime {releases.OLDEST} a file with several kinds of activations is computed wrong, without a word:\n"
        "it ignores the `overload` that tells their function bodies apart.\n\n"
        f"From {releases.SOURCE}. It was read, not tried; an image of your own may carry another onnxruntime."
    )


def _checked() -> str:
    return (
        "## What was checked, and what was not\n\n"
        "Every config.pbtxt of opau-deploy was checked, when it was written, against the schema (tritonclient "
        f"{version('tritonclient')}) and\nagainst the rules of Triton's core and of its onnxruntime backend, as their sources "
        "state them. Its first lines say with\nwhich onnxruntime the model was opened and run, outside of Triton.\n\n"
        "No Triton server with an onnxruntime backend was at hand: that Triton loads these models, its warm-up, its batching\n"
        "and its instances on GPUs were not run. Send one request and compare the answer before you rely on it.\n\n"
        f"Written by opau_onnx {__version__}."
    )
