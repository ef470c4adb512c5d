"""Putting a model into a folder of models: whole or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from opau_onnx.errors import DeployError


@contextmanager
def staging(repository: Path) -> Iterator[Path]:
    """A folder that vanishes in the end, for what is moved from there into ``repository`` when it is good.

    It lies beside the repository where that is one file system, so that a server which polls the repository never sees it.

    Raises:
        DeployError: it cannot be made.
    """
    beside = repository.resolve().parent
    one = os.access(beside, os.W_OK) and beside.stat().st_dev == repository.stat().st_dev
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{repository.name}.", suffix=".tmp", dir=beside if one else repository))
    except OSError as error:
        raise DeployError(f"cannot write to {repository}: {error.strerror or error}") from None
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def existing(repository: Path) -> Iterator[None]:
    """Make the folder where it is missing; take it away again after an error.

    Raises:
        DeployError: it cannot be made, or is no folder.
    """
    new = not repository.exists()
    try:
        repository.mkdir(exist_ok=True)
    except FileExistsError:
        raise DeployError(f"{repository} is a file; expected a folder of models") from None
    except OSError as error:
        raise DeployError(f"cannot make the folder {repository}: {error.strerror or error}") from None
    try:
        yield
    except BaseException:
        if new:
            shutil.rmtree(repository, ignore_errors=True)
        raise


def copy_model(model: Path, external: tuple[str, ...], folder: Path) -> Path:
    """Copy a model as ``folder/model.onnx``, and its weights beside it under the names that it knows them by."""
    folder.mkdir(parents=True)
    for location in external:
        target = folder / location
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(model.parent / location, target)
    return Path(shutil.copyfile(model, folder / "model.onnx"))


def publish(staged: Path, target: Path) -> None:
    """Move a staged folder to where it belongs; what was there is gone when the new one is in place.

    For an instant, between two renames, neither is there. Where the second one fails, the old one comes back.
    """
    if not target.exists():
        staged.rename(target)
        return
    old = staged.with_name(f"{target.name}.old")
    target.rename(old)
    try:
        staged.rename(target)
    except BaseException:
        old.rename(target)
        raise
