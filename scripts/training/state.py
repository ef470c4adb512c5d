"""The training state: what an interrupted run is continued from, as if it had never stopped.

One dict of plain data and tensors, so ``weights_only`` loading reads it and no code in it can run:

    format     "opau_onnx.training_state/1"
    identity   which run it is: network, data, recipe (JSON data)
    history    a record for each epoch that is done (JSON data)
    model, optimizer, schedule, scaler    their state_dicts
    generator  of order and augmentation
    rng        PyTorch's own generators: "cpu", and "cuda" on a GPU (dropout)
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from opau_onnx.errors import LoadError
from opau_onnx.io.atomic import replacing
from training import TrainingError
from training.loop import Training

FORMAT = "opau_onnx.training_state/1"
PARTS = ("identity", "history", "model", "optimizer", "schedule", "scaler", "generator", "rng")


def save_state(path: Path, run: Training, identity: dict[str, Any]) -> None:
    """Write the state between two epochs; the file appears whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    rng = {"cpu": torch.get_rng_state()}
    if run.recipe.device == "cuda":
        rng["cuda"] = torch.cuda.get_rng_state()
    content = {
        "format": FORMAT,
        "identity": json.dumps(identity, sort_keys=True),
        "history": json.dumps(run.history),
        "model": run.model.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "schedule": run.schedule.state_dict(),
        "scaler": run.precision.scaler.state_dict(),
        "generator": run.generator.get_state(),
        "rng": rng,
    }
    with replacing(path) as temporary, temporary.open("wb") as stream:
        torch.save(content, stream)


def load_state(path: Path, run: Training, identity: dict[str, Any]) -> None:
    """Bring a run that has just begun to where the state was saved.

    Raises:
        LoadError: the file is not a training state, or a damaged one.
        TrainingError: it is that of another run.
    """
    content = _read(path)
    _check_identity(path, content["identity"], identity)
    try:
        run.model.load_state_dict(content["model"])
        run.optimizer.load_state_dict(content["optimizer"])
        run.schedule.load_state_dict(content["schedule"])
        run.precision.scaler.load_state_dict(content["scaler"])
        run.generator.set_state(content["generator"])
        torch.set_rng_state(content["rng"]["cpu"])
        if run.recipe.device == "cuda":
            torch.cuda.set_rng_state(content["rng"]["cuda"])
        run.history[:] = json.loads(content["history"])
    except (KeyError, TypeError, ValueError, AttributeError, RuntimeError) as error:
        raise LoadError(f"the training state {path} does not fit: {error}; remove it to start anew") from None


def _read(path: Path) -> dict[str, Any]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # pickle's, zipfile's and torch's own
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise LoadError(f"{path} cannot be read as a training state: {first}; remove it to start anew") from None
    if not isinstance(content, dict) or content.get("format") != FORMAT:
        found = content.get("format") if isinstance(content, dict) else type(content).__name__
        raise LoadError(f"{path} is no training state ({found!r}, expected {FORMAT!r}); remove it to start anew")
    if missing := [part for part in PARTS if part not in content]:
        raise LoadError(f"{path} is a training state without {', '.join(missing)}; remove it to start anew")
    return content


def _check_identity(path: Path, stored: Any, identity: dict[str, Any]) -> None:
    try:
        before = dict(json.loads(stored))
    except (TypeError, ValueError) as error:
        raise LoadError(f"{path} does not say which run it is of: {error}; remove it to start anew") from None
    if differences := describe_differences(before, identity):
        raise TrainingError(f"{path} is the state of another run: {differences}; give the same options, or leave out --resume")


def describe_differences(before: dict[str, Any], now: dict[str, Any]) -> str:
    """Where two records of settings differ, e.g. "epochs was 15, now 20"; "" where they don't."""
    first, last = (flattened(json.loads(json.dumps(v))) for v in (before, now))
    return ", ".join(
        f"{key} was {first.get(key)}, now {last.get(key)}" for key in {**first, **last} if first.get(key) != last.get(key)
    )


def flattened(record: dict[str, Any]) -> dict[str, Any]:
    """Nested dicts as one, by their innermost names."""
    flat: dict[str, Any] = {}
    for key, value in record.items():
        flat |= flattened(value) if isinstance(value, dict) else {key: value}
    return flat
