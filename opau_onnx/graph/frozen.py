"""An activation of a graph whose coefficients are known."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from opau_onnx.core.frozen import Frozen
from opau_onnx.errors import CollapseError, SpecError
from opau_onnx.graph.nodes import read_coefficients, read_config


def freeze(node: ir.Node) -> Frozen:
    """The activation of a node.

    Raises:
        CollapseError: coefficients that are computed at run time, or that the definition does not allow.
    """
    found = read_coefficients(node)
    if found is None:
        raise CollapseError(
            f"the coefficients of {node.name} are computed at run time; only constant ones can be collapsed: export the model "
            "with its learned coefficients as parameters"
        )
    try:
        config = read_config(node)
        config.check_coefficients(found[0].shape, found[1].shape)
    except SpecError as error:
        raise CollapseError(f"{node.name}: {error}") from None
    for values, what in zip(found, ("numerator", "denominator"), strict=True):
        if not np.isfinite(values).all():
            raise CollapseError(f"the {what} of {node.name} holds NaN or infinity; expected finite numbers")
    compute = "float64" if found[0].dtype == np.float64 else "float32"
    return Frozen(config, found[0].astype(np.float64), found[1].astype(np.float64), compute)
