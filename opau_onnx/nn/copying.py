"""Copies of modules, also of those that ``copy.deepcopy`` refuses."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn

from opau_onnx.nn.transformers import shadowed


def copy_module(model: nn.Module, replaced: Mapping[Tensor, Tensor] | None = None) -> nn.Module:
    """A copy that computes the same and shares no parameter or buffer.

    ``replaced`` gives what takes the place of some of them: the parameter itself, say, to share it.

    Of modules that keep a result of autograd as an attribute, as weight_norm and pruning do after a step, and of those that
    hold what cannot be copied at all (a lock, an open file, a generator), too: such an attribute is shared. A
    TransformerDecoderLayer keeps an activation that is a module.
    """
    computed = (v for m in model.modules() for v in vars(m).values() if isinstance(v, Tensor) and not v.is_leaf)
    memo: dict[int, Any] = {id(v): v.detach().clone() for v in computed} | {id(v): new for v, new in (replaced or {}).items()}
    try:
        clone = copy.deepcopy(model, dict(memo))
    except Exception:  # anything that an attribute does not allow
        clone = _by_parts(model, memo)
    hidden = set(shadowed(model))
    for name in shadowed(clone):
        if name not in hidden:
            del vars(clone.get_submodule(name))["activation"]
    return clone


def _by_parts(model: nn.Module, memo: dict[int, Any]) -> nn.Module:
    """Each module made anew, its attributes copied one by one, those that cannot be shared."""
    modules = list(model.modules())
    for module in modules:
        memo[id(module)] = type(module).__new__(type(module))
    for module in modules:
        new = memo[id(module)]
        for name, value in vars(module).items():
            vars(new)[name] = _copied(value, memo)
    clone: nn.Module = memo[id(model)]
    return clone


def _copied(value: Any, memo: dict[int, Any]) -> Any:
    if type(value) in (dict, list, tuple) or type(value).__name__ == "OrderedDict":
        # One by one: a single hook that cannot be copied is no reason to share all of them.
        parts = value.items() if isinstance(value, dict) else enumerate(value)
        made = [(key, _copied(part, memo)) for key, part in parts]
        return type(value)(made) if isinstance(value, dict) else type(value)(part for _, part in made)
    try:
        return copy.deepcopy(value, memo)
    except Exception:
        return value
