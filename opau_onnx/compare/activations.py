"""Each activation of a model by itself: the node of the file against the torch module, on a hard grid.

The tolerance is proven, not chosen: the oracle bounds the rounding error of an evaluation by the recurrence in float32 (or
float64); two such evaluations may differ by twice that, and by one rounding each to the output's dtype.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from opau_onnx.compare.grids import grid, shaped
from opau_onnx.compare.isolated import compare_isolated
from opau_onnx.compare.sessions import OnnxRuntime
from opau_onnx.compare.tensors import COMPUTED_ROUNDINGS, UNIT_ROUNDOFF, Comparison
from opau_onnx.core import oracle
from opau_onnx.core.reports import Reported
from opau_onnx.core.spec import Config
from opau_onnx.graph.dtypes import NAMES
from opau_onnx.graph.extract import extract
from opau_onnx.graph.metadata import MODULE
from opau_onnx.graph.nodes import node_attributes, opau_nodes, read_coefficients, read_config
from opau_onnx.graph.save import serialized
from opau_onnx.nn import OrthogonalPade, orthogonal_pade
from opau_onnx.nn.casting import DTYPES, dtype_name, tensors_by_name


@dataclass(frozen=True)
class ActivationCheck(Reported):
    """Check of one node.

    Attributes:
        node, module: its name in the file and that of the torch module.
        config: what it computes.
        coefficients: "equal", "different", "computed at run time" or "not found in the model".
        comparison: on the grid; None where the coefficients are computed at run time.
        equal: the verdict.
    """

    hidden = ("config",)

    node: str
    module: str
    config: Config
    coefficients: str
    comparison: Comparison | None
    equal: bool

    def as_dict(self) -> dict[str, Any]:
        """The configuration as the node's attributes."""
        return super().as_dict() | node_attributes(self.config)


def check_activations(model: ir.Model, source: torch.nn.Module) -> list[ActivationCheck]:
    """Check every activation node of ``model`` against the module of ``source`` that it was exported from."""
    return [_check(model, node, source) for node in opau_nodes(model)]


def _check(model: ir.Model, node: ir.Node, source: torch.nn.Module) -> ActivationCheck:
    config = read_config(node)
    name = node.metadata_props.get(MODULE, "")
    stored = read_coefficients(node)
    if stored is None:
        return ActivationCheck(node.name, name, config, "computed at run time", None, True)
    c, d = stored
    own = dict(source.named_modules(remove_duplicate=False)).get(name)
    pairs = _coefficients(source, own, node)
    if pairs is None or (isinstance(own, OrthogonalPade) and own.config != config):
        same = "not found in the model" if pairs is None else "different"
    else:
        computed = torch.nn.utils.parametrize.is_parametrized(own) if own is not None else False
        same = "equal" if _same(pairs[0], c, computed) and _same(pairs[1], d, computed) else "different"
    # The model's own coefficients where they are known; the file's else, so that at least the function is checked.
    numerator, denominator = pairs if pairs and same == "equal" else (torch.from_numpy(c), torch.from_numpy(d))
    if isinstance(own, OrthogonalPade):
        c, d = (p.detach().double().numpy() for p in (own.numerator, own.denominator))
        module, known = own, (own.config, c, d)
    else:
        module = OrthogonalPade.from_coefficients(numerator, denominator, config, dtype=torch.from_numpy(c).dtype)
        known = (config, c, d)
    comparison = _compare(model, node, module, known)
    # Coefficients that the exporter folded (abs(p), say) have no name in the model: the outputs must tell of those.
    return ActivationCheck(node.name, name, config, same, comparison, comparison.equal and same != "different")


def _coefficients(source: torch.nn.Module, own: Any, node: ir.Node) -> tuple[torch.Tensor, torch.Tensor] | None:
    """The model's tensors behind a node: those of its module, or those that bear the names in the file."""
    if isinstance(own, OrthogonalPade):
        return own.numerator, own.denominator
    tensors = tensors_by_name(source)
    found = [tensors.get(str(node.inputs[i].name)) for i in (1, 2)]
    return (found[0], found[1]) if found[0] is not None and found[1] is not None else None


def _same(tensor: torch.Tensor, stored: Any, computed: bool) -> bool:
    """True where the file holds the model's coefficients, converted to the file's dtype.

    Those that a parametrization computes may have been computed by the exporter, and rounded another way.
    """
    expected = tensor.detach().to(torch.from_numpy(stored).dtype).numpy()
    if expected.shape != stored.shape:
        return False
    unit = COMPUTED_ROUNDINGS * UNIT_ROUNDOFF[str(stored.dtype)] if computed else 0.0
    return bool(np.allclose(expected, stored, rtol=unit, atol=0.0, equal_nan=True))


def _compare(model: ir.Model, node: ir.Node, module: OrthogonalPade, known: tuple[Config, Any, Any]) -> Comparison:
    dtype = DTYPES[NAMES.get(node.inputs[0].dtype, "float32")]
    config, c, d = known
    x = shaped(config, grid(dtype))
    with torch.no_grad():
        # Not module(x): hooks of the user's may change its result, outside of the node.
        expected = orthogonal_pade(x, module.numerator, module.denominator, module.config)
    assert node.inputs[0] is not None
    part = extract(model, node.inputs[0], [node.outputs[0]], x.shape, dtype=node.inputs[0].dtype or ir.DataType.FLOAT)
    actual = OnnxRuntime(serialized(part)).run([x])[0]
    kind = dtype_name(dtype)
    wide = x.double().numpy()
    exact = oracle.evaluate(config, wide, c, d)
    return compare_isolated(str(node.name), wide, expected.double().numpy(), actual, exact, kind)
