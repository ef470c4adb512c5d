"""The distinct activations of an ONNX file, with their coefficients."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from opau_onnx.core.spec import Config
from opau_onnx.errors import ValidationError
from opau_onnx.graph.nodes import opau_nodes, read_coefficients, read_config
from opau_onnx.graph.whole import read_model


@dataclass(frozen=True)
class Activation:
    """One function of one variable: a configuration without groups, and its coefficients in float32.

    Attributes:
        nodes: names of the nodes that compute it; "name[3]" is the fourth group of a node.
    """

    nodes: tuple[str, ...]
    config: Config
    numerator: npt.NDArray[np.float32]
    denominator: npt.NDArray[np.float32]


def read(path: Path) -> list[Activation]:
    """All activations of a file, each once.

    Raises:
        LoadError: the file cannot be read, or is no ONNX model.
        SpecError, ValidationError: it has no OPAU node, or coefficients that the definition does not allow, or that it does
            not store.
    """
    nodes = opau_nodes(read_model(path))
    found: dict[Any, list[str]] = {}
    for node in nodes:
        coefficients = read_coefficients(node)
        if coefficients is None:
            raise ValidationError(
                f"the coefficients of node '{node.name}' are not stored in {path}: they are computed or inputs of the model, "
                "and cannot be certified"
            )
        config = read_config(node)
        config.check_coefficients(coefficients[0].shape, coefficients[1].shape)
        for values in coefficients:
            if not np.isfinite(values).all():
                raise ValidationError(
                    f"the coefficients of node '{node.name}' in {path} hold NaN or infinity; expected finite numbers"
                )
        c, d = (np.ascontiguousarray(values, dtype=np.float32) for values in coefficients)
        single = Config(config.basis, config.form, config.degrees)
        for group in range(config.groups if c.ndim > 1 or d.ndim > 1 else 1):
            name = f"{node.name}[{group}]" if c.ndim > 1 or d.ndim > 1 else str(node.name)
            key = single, (c[group] if c.ndim > 1 else c).tobytes(), (d[group] if d.ndim > 1 else d).tobytes()
            found.setdefault(key, []).append(name)
    if not found:
        raise ValidationError(f"{path} has no learned activation (ai.opau::OrthogonalPade) to certify")
    return [
        Activation(tuple(names), config, np.frombuffer(c, np.float32), np.frombuffer(d, np.float32))
        for (config, c, d), names in found.items()
    ]
