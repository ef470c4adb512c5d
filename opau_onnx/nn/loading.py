"""Loading the coefficients of activations: whether they belong to the module, and how a sharded parameter takes values."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules.module import _EXTRA_STATE_KEY_SUFFIX

from opau_onnx.core import state
from opau_onnx.core.spec import Config
from opau_onnx.errors import SpecError

EXTRA_STATE = _EXTRA_STATE_KEY_SUFFIX
"""The last part of an extra state's key in a state_dict."""


class AssumedConfigWarning(UserWarning):
    """Coefficients were loaded from a state_dict that does not say which function they belong to."""


def check(config: Config, saved: Any) -> None:
    """Raise SpecError unless an extra state says this configuration."""
    state.check(config, _numbers(saved))


def _numbers(saved: Any) -> Any:
    return saved.detach().cpu().double().numpy() if isinstance(saved, Tensor) else saved


def read(saved: Any) -> Config:
    """The configuration in an extra state; raises SpecError where there is none."""
    return state.unpack(_numbers(saved))


def has_coefficients(state_dict: Mapping[str, Any], prefix: str) -> bool:
    """True where a state_dict holds coefficients of the module with this prefix, parametrized ones too."""
    return any(
        f"{prefix}{name}" in state_dict or f"{prefix}parametrizations.{name}.original" in state_dict
        for name in ("numerator", "denominator")
    )


def before(config: Config, state_dict: Mapping[str, Any], prefix: str) -> tuple[str, tuple[str, ...]]:
    """Check the part of a state_dict that a module with this prefix is going to load.

    Returns:
        What is wrong, "" where nothing is; and the keys that may be missing: states of other libraries and of older versions
        say no configuration, which is a warning.
    """
    key = f"{prefix}{EXTRA_STATE}"
    if key in state_dict:
        try:
            check(config, state_dict[key])
        except SpecError as error:
            return f"{prefix.rstrip('.') or 'the module'}: {error}", ()
        return "", ()
    if has_coefficients(state_dict, prefix):
        # Without the module's name, so that Python shows it once for all modules of a kind.
        warnings.warn(f"{ASSUMED}: {config}", AssumedConfigWarning, stacklevel=2)
    return "", (key,)


ASSUMED = "the state_dict does not say which function its coefficients belong to; assumed is what the module computes"


def is_extra_state(key: str) -> bool:
    """True for the key of a module's extra state in a state_dict."""
    return key.rpartition(".")[2] == EXTRA_STATE


def like(parameter: Tensor, values: Tensor) -> Tensor:
    """Values distributed as a sharded parameter (DTensor) is; themselves for any other."""
    if type(parameter) in (Tensor, nn.Parameter) or not torch.distributed.is_available():
        return values
    from torch.distributed.tensor import DTensor, distribute_tensor

    if not isinstance(parameter, DTensor):
        return values
    wanted = values.to(parameter.device, parameter.dtype)
    return distribute_tensor(wanted, parameter.device_mesh, parameter.placements)
