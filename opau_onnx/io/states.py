"""Finding a model's state_dict in what a file holds: inside other dicts, and under the prefixes that wrappers add.

Nothing is ever loaded with ``strict=False``: every name of the model must be there, and what else the file holds is told.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from opau_onnx.errors import LoadError
from opau_onnx.nn.loading import is_extra_state

PREFERRED = ("state_dict", "model_state_dict", "model", "net", "network", "module", "weights")
"""Keys under which training scripts save a state_dict; the first that fits is taken where several do."""
INSERTED = ("_orig_mod", "_fsdp_wrapped_module", "_checkpoint_wrapped_module")
"""Parts of names that wrappers put before the modules inside a model."""


@dataclass(frozen=True)
class Candidate:
    """A state_dict inside a file.

    Attributes:
        key: the keys that lead to it, with dots; "" for the file's content itself.
        state: names to tensors.
    """

    key: str
    state: dict[str, Any]


@dataclass(frozen=True)
class Chosen:
    """Result of :func:`choose`: the state with the model's names, and what is to be told about the choice."""

    state: dict[str, Any]
    notes: tuple[str, ...]


def candidates(content: Any, depth: int = 3) -> list[Candidate]:
    """All state_dicts in nested dicts, outer ones first."""
    return list(_candidates(content, "", depth))


def _candidates(content: Any, key: str, depth: int) -> Iterator[Candidate]:
    if not isinstance(content, Mapping) or depth == 0:
        return
    if _is_state(content):
        yield Candidate(key, dict(content))
        return
    names = [n for n in PREFERRED if n in content] + [n for n in content if n not in PREFERRED]
    for name in names:
        if isinstance(name, str):
            yield from _candidates(content[name], f"{key}.{name}" if key else name, depth - 1)


def _is_state(content: Mapping[Any, Any]) -> bool:
    """Names to tensors; only extra states of other libraries may be something else."""
    tensors = any(isinstance(v, Tensor) for v in content.values())
    return tensors and all(isinstance(k, str) and (isinstance(v, Tensor) or is_extra_state(k)) for k, v in content.items())


def choose(content: Any, model: nn.Module, path: Path, key: str | None = None, strip_prefix: str | None = None) -> Chosen:
    """The state_dict that fits a model.

    Args:
        content: of the file.
        model: whose names are wanted.
        path: of the file, for messages.
        key: take this part of the file (keys with dots between them) instead of the first that fits.
        strip_prefix: take the names that begin with it, without it.

    Raises:
        LoadError: there is no state_dict, not that key, or no name has that prefix.
    """
    found = candidates(content)
    if not found:
        raise LoadError(
            f"{path} holds {type(content).__name__}, expected a checkpoint of this package, a state_dict (names to "
            "tensors) or, with --allow-pickle, a module"
        )
    if key is not None:
        chosen = [c for c in found if c.key == key]
        if not chosen:
            raise LoadError(f"{path} has no state_dict under the key {key!r}; it has {_listed(found)}")
    else:
        chosen = found
    wanted = {name for name in model.state_dict() if not is_extra_state(name)}
    for candidate in chosen:
        fitting = _stripped(candidate, strip_prefix, path) if strip_prefix is not None else _fitted(candidate.state, wanted)
        if fitting is not None:
            return Chosen(fitting.state, _told(path, candidate, found, key) + fitting.notes)
    return Chosen(chosen[0].state, _told(path, chosen[0], found, key))  # loading it says what does not fit


def _told(path: Path, chosen: Candidate, found: list[Candidate], key: str | None) -> tuple[str, ...]:
    others = [c for c in found if c.key != chosen.key]
    if key is not None or not chosen.key:
        return ()
    besides = f"; it also holds {_listed(others)}, which --key chooses" if others else ""
    return (f"{path.name}: the weights under {chosen.key!r} were taken{besides}",)


def _listed(found: list[Candidate]) -> str:
    return ", ".join(repr(c.key) if c.key else "names at the top" for c in found)


def _stripped(candidate: Candidate, prefix: str, path: Path) -> Chosen:
    state = {name[len(prefix) :]: v for name, v in candidate.state.items() if name.startswith(prefix)}
    if not state:
        raise LoadError(
            f"{path}: no name begins with {prefix!r} (--strip-prefix); the first is {next(iter(candidate.state))!r}"
        )
    return Chosen(state, _left_out([n for n in candidate.state if not n.startswith(prefix)]))


def _fitted(state: dict[str, Any], wanted: set[str]) -> Chosen | None:
    """The state under the prefix that gives every wanted name; None where there is none."""
    if not wanted or wanted <= state.keys():
        return Chosen(state, ())
    clean = {".".join(p for p in name.split(".") if p not in INSERTED): v for name, v in state.items()}
    notes = ("the parts " + ", ".join(p for p in INSERTED if any(p in n.split(".") for n in state)) + " of names",)
    first = min(wanted)
    for name in clean:
        prefix = name.removesuffix(first)
        if not name.endswith(first) or (prefix and not prefix.endswith(".")) or any(prefix + n not in clean for n in wanted):
            continue
        inside = {n[len(prefix) :]: v for n, v in clean.items() if n.startswith(prefix)}
        taken = ([f"the prefix {prefix!r}"] if prefix else []) + (list(notes) if clean.keys() != state.keys() else [])
        left = _left_out([n for n in clean if not n.startswith(prefix)])
        return Chosen(inside, (f"{' and '.join(taken)} was taken off the names of the weights", *left))
    return None


def _left_out(names: list[str]) -> tuple[str, ...]:
    if not names:
        return ()
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return (f"not of the model, and left out: {', '.join(names[:4])}{more}",)
