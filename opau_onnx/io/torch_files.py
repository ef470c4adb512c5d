"""Telling what a file holds without running anything in it."""

from __future__ import annotations

import re
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch

from opau_onnx.errors import LoadError


def kind(path: Path) -> str:
    """One of "safetensors", "pt2", "torchscript", "torch" (a zip of torch.save), "pickle" (anything else).

    Raises:
        LoadError: no such file, or an empty one.
    """
    if not path.is_file():
        raise LoadError(f"{path} does not exist or is not a file; expected a model file (.pt, .pth, .pt2, .safetensors)")
    if path.stat().st_size == 0:
        raise LoadError(f"{path} is empty")
    if path.suffix == ".safetensors":
        return "safetensors"
    if not zipfile.is_zipfile(path):
        return "pickle"
    try:
        with zipfile.ZipFile(path) as archive:
            inner = {name.partition("/")[2] for name in archive.namelist()} | set(archive.namelist())
    except (zipfile.BadZipFile, NotImplementedError, ValueError) as error:
        raise LoadError(f"{path} is damaged: {error}") from None
    if "archive_format" in inner or "serialized_exported_program.json" in inner:
        return "pt2"
    return "torchscript" if "constants.pkl" in inner else "torch"


def load_plain(path: Path) -> Any:
    """``torch.load(weights_only=True)``: tensors and plain data; anything else is refused and nothing of it is run.

    Raises:
        LoadError: saying what was refused and what to do.
    """
    import pickle

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns of unusual pickle protocols; what matters is what it refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise LoadError(
            f"{path} was refused: it holds more than tensors and plain data, and unpickling it could run code "
            f"({reason(error)}). Save the state_dict and pass --model package.module:factory; or, only if you trust "
            "the file, pass --allow-pickle."
        ) from None
    except (RuntimeError, EOFError, OSError, ValueError, KeyError, AttributeError) as error:
        raise LoadError(f"{path} cannot be read as a PyTorch file: {reason(error)}") from None


def reason(error: Exception) -> str:
    """The part of a message of torch's that says what was wrong."""
    text = " ".join(str(error).split())
    found = re.search(r"(GLOBAL|Unsupported \w+|Can only \w+|Trying to \w+)[^.]*\.?[^. ]*", text)
    return (found.group(0) if found else text)[:200].strip() or type(error).__name__
