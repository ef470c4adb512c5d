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

from opau_onnx.compare.sessions import OnnxRuntime
from opau_onnx.compare.tensors import UNIT_ROUNDOFF, Comparison, compare
from opau_onnx.core import oracle
from opau_onnx.core.spec import Config
from opau_onnx.errors import ValidationError
from opau_onnx.graph.dtypes import NAMES
from opau_onnx.graph.metadata import MODULE
from opau_onnx.graph.nodes import node_attributes, opau_nodes, read_config
from opau_onnx.nn import OrthogonalPade
from opau_onnx.nn.casting import DTYPES, dtype_name, tensors_by_name

DENSE = 12.0
"""The grid is dense up to this magnitude, and the largest absolute error is that of this range."""
WELL_CONDITIONED = 10.0
"""The largest error in ULP is that of the inputs whose condition number is below this: elsewhere P or Q cancels."""
LARGEST = 2**18
"""So many inputs are tried at once at most, for all channels together: the oracle takes a second for them."""


@dataclass(frozen=True)
class ActivationCheck:
    """What was found of one node.

    Attributes:
        node, module: its name in the file and that of the torch module.
        config: what it computes.
        coefficients: "equal", "different", "computed at run time" or "not found in the model".
        comparison: on the grid; None where the coefficients are computed at run time.
        equal: the verdict.
    """

    node: str
    module: str
    config: Config
    coefficients: str
    comparison: Comparison | None
    equal: bool

    def as_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "node": self.node,
            "module": self.module,
            **node_attributes(self.config),
            "coefficients": self.coefficients,
            "comparison": self.comparison.as_dict() if self.comparison else None,
            "equal": self.equal,
        }


def check_activations(model: ir.Model, source: torch.nn.Module) -> list[ActivationCheck]:
    """Check every activation node of ``model`` against the module of ``source`` that it was exported from."""
    return [_check(model, node, source) for node in opau_nodes(model)]


def _check(model: ir.Model, node: ir.Node, source: torch.nn.Module) -> ActivationCheck:
    config = read_config(node)
    name = node.metadata_props.get(MODULE, "")
    values = [node.inputs[i].const_value for i in (1, 2)]
    if any(v is None for v in values):
        return ActivationCheck(node.name, name, config, "computed at run time", None, True)
    c, d = (np.array(v.numpy()) for v in values)
    own = dict(source.named_modules(remove_duplicate=False)).get(name)
    pairs = _coefficients(source, own, node)
    if pairs is None or (isinstance(own, OrthogonalPade) and own.config != config):
        same = "not found in the model" if pairs is None else "different"
    else:
        same = "equal" if _same(pairs[0], c) and _same(pairs[1], d) else "different"
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


def _same(tensor: torch.Tensor, stored: Any) -> bool:
    """Whether the file holds the model's coefficients, converted to the file's dtype."""
    expected = tensor.detach().to(torch.from_numpy(stored).dtype).numpy()
    return expected.shape == stored.shape and np.array_equal(expected, stored, equal_nan=True)


def _compare(model: ir.Model, node: ir.Node, module: OrthogonalPade, known: tuple[Config, Any, Any]) -> Comparison:
    dtype = DTYPES[NAMES.get(node.inputs[0].dtype, "float32")]
    config, c, d = known
    x = shaped(config, grid(dtype))
    with torch.no_grad():
        expected = module(x)
    actual = OnnxRuntime(_alone(model, node, x)).run([x])[0]
    kind = dtype_name(dtype)
    wide = x.double().numpy()
    exact = oracle.evaluate(config, wide, c, d)
    return compare(
        f"{node.name} on {x.numel():,} inputs", expected.double().numpy(), actual, kind, atol=tolerance(exact, kind),
        usual=np.abs(wide) <= DENSE, well_conditioned=exact.condition < WELL_CONDITIONED,
    )  # fmt: skip


def tolerance(known: oracle.Evaluation, dtype: str) -> Any:
    """Twice the bound of one evaluation, and a rounding each to the output's dtype (and its smallest step)."""
    compute = "float64" if dtype == "float64" else "float32"
    info, wide = torch.finfo(getattr(torch, dtype)), torch.finfo(getattr(torch, compute))
    with np.errstate(all="ignore"):
        size = np.where(np.isfinite(known.value), np.abs(known.value), 0.0)
        rounding = 0.0 if dtype == compute else size * UNIT_ROUNDOFF[dtype]
        lost = known.underflow * wide.smallest_normal * wide.eps
        limit = 2.0 * (known.bound * UNIT_ROUNDOFF[compute] + lost + rounding + info.smallest_normal * info.eps)
        # Close to the largest number one side may overflow and the other not.
        limit = np.where((size > 0.99 * info.max) | ~np.isfinite(limit), np.inf, limit)
        return np.where(np.isfinite(known.value), limit, 0.0)


def grid(dtype: torch.dtype) -> torch.Tensor:
    """Inputs that are hard or usual: dense around zero, all magnitudes of the dtype, zeros, infinities and NaN."""
    info = torch.finfo(dtype)
    dense = torch.linspace(-DENSE, DENSE, 4801, dtype=torch.float64)
    small, large = np.log2(info.smallest_normal), np.log2(info.max)
    magnitudes = torch.exp2(torch.linspace(float(small), float(large) - 1e-3, 600, dtype=torch.float64))
    special = torch.tensor([0.0, -0.0, 1.0, -1.0, info.max, -info.max, torch.inf, -torch.inf, torch.nan], dtype=torch.float64)
    return torch.cat([dense, magnitudes, -magnitudes, special]).to(dtype)


def shaped(config: Config, values: torch.Tensor, channels: int | None = None, axes: int | None = None) -> torch.Tensor:
    """Inputs in a shape in which every channel sees every value, or its share of them where these are many: :func:`shared_out`.

    Args:
        config: whose groups.
        values: shape (N,).
        channels: number of channels; None for one in each group.
        axes: number of axes that the result has at least, besides one for the values; None for as few as will do.
    """
    if config.groups == 1:
        return values
    rank = config.axis + 1 if config.axis >= 0 else -config.axis
    shape = [1] * max(rank, axes or 0)
    shape[config.axis] = channels or config.groups
    columns = shared_out(values, shape[config.axis]).reshape(-1, *shape)
    return columns.movedim(0, -1 if config.axis >= 0 else 0).contiguous()


def shared_out(values: torch.Tensor, channels: int) -> torch.Tensor:
    """(N,) to (M, channels): what each channel is tried on.

    All values, where these are few enough. Otherwise every n-th, from another one on for each channel, so that n channels
    together see all; and infinities, NaN, zeros and ones, and the largest values, for every channel.
    """
    apart = -(-len(values) * channels // LARGEST)
    if apart == 1:
        return values[:, None].expand(-1, channels)
    shares = values[(torch.arange(0, len(values), apart)[:, None] + torch.arange(channels)) % len(values)]
    extreme = torch.finfo(values.dtype).max
    special = values[~values.isfinite() | (values == 0) | (values.abs() == 1) | (values.abs() == extreme)]
    return torch.cat([shares, special[:, None].expand(-1, channels)])


def _alone(model: ir.Model, node: ir.Node, x: torch.Tensor) -> bytes:
    """A model of this node only, with its own coefficients and its own function."""
    kind = node.inputs[0].dtype or ir.DataType.FLOAT
    entry = ir.Value(name="x", type=ir.TensorType(kind), shape=ir.Shape(tuple(x.shape)))
    constants = []
    for position, name in ((1, "numerator"), (2, "denominator")):
        tensor = node.inputs[position].const_value
        stored = ir.tensor(np.array(tensor.numpy()), name=name)
        constants.append(
            ir.Value(name=name, type=ir.TensorType(stored.dtype), shape=ir.Shape(stored.shape), const_value=stored)
        )
    copy = ir.node(
        node.op_type, [entry, *constants], attributes=dict(node_attributes(read_config(node))),
        domain=node.domain, overload=node.overload, name=node.name,
    )  # fmt: skip
    copy.outputs[0].name, copy.outputs[0].dtype, copy.outputs[0].shape = "y", kind, entry.shape
    graph = ir.Graph(
        [entry], [copy.outputs[0]], nodes=[copy], initializers=constants, name="activation",
        opset_imports=dict(model.graph.opset_imports),
    )  # fmt: skip
    body = model.functions.get(node.op_identifier())
    if body is None:
        raise ValidationError(f"the node {node.name} has no function with overload {node.overload!r} in the model")
    alone = ir.Model(graph, ir_version=model.ir_version, functions=[body])
    return bytes(ir.to_proto(alone).SerializeToString())
