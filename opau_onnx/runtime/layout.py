"""Activations inside onnxruntime's blocked layout.

onnxruntime's CPU gives convolutions a layout with blocks of channels (NCHWc). Its own elementwise operators stay inside it;
around a custom op it puts a ReorderOutput before and a ReorderInput after. An activation whose coefficients all channels share
does not care where a channel lies, so both can go. The lanes that fill up the last block then hold f(0) instead of 0, which
whatever follows multiplies by weights of zero, or drops: f(0) must be finite for that.

Where channels or groups of them differ, our CPU kernel is told the size of the blocks (attribute :data:`BLOCK`) and finds each
channel's coefficients itself; whole blocks must be filled for that.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import numpy_helper

from opau_onnx.core import oracle
from opau_onnx.core.spec import DOMAIN, FIXED_OP_TYPE, OP_TYPES, Config

NCHWC = "com.microsoft.nchwc"
BLOCK = "channel_block"
"""Attribute that tells the kernel how many channels lie side by side; not part of the definition, for rewritten models only."""


@dataclass(frozen=True)
class Rewritten:
    """The result for a model that onnxruntime has optimized for this machine.

    Attributes:
        removed: names of the activations that lost their pair of reorders.
        kept: name -> why it keeps them, of those between a ReorderOutput and a ReorderInput.
    """

    removed: tuple[str, ...]
    kept: dict[str, str]


def rewrite(model: onnx.ModelProto, block: int = 0) -> Rewritten:
    """Remove the reorders around activations, in place, in the main graph.

    Args:
        model: as onnxruntime optimized it.
        block: size of the blocks on this machine; 0 where it is not known, then only shared coefficients can be moved.
    """
    graph = model.graph
    producers = {name: node for node in graph.node for name in node.output}
    readers = Counter(name for node in graph.node for name in node.input)
    readers.update(output.name for output in graph.output)
    readers.update(_outer_names(graph))
    removed: list[str] = []
    kept: dict[str, str] = {}
    dropped: list[onnx.NodeProto] = []
    for node in graph.node:
        if node.domain != DOMAIN or node.op_type not in OP_TYPES:
            continue
        before = producers.get(node.input[0])
        after = [n for n in graph.node if node.output[0] in n.input]
        if before is None or not _is(before, "ReorderOutput") or not any(_is(n, "ReorderInput") for n in after):
            continue
        reason = _obstacle(model, node, before, after, readers, block)
        if reason is not None:
            kept[node.name] = reason
            continue
        if _int(node, "groups", 1) != 1:
            node.attribute.append(onnx.helper.make_attribute(BLOCK, block))
        _bypass(graph, node, before, after)
        dropped += [before, *after]
        removed.append(node.name)
    for node in dropped:
        graph.node.remove(node)
    return Rewritten(tuple(removed), kept)


def _is(node: onnx.NodeProto, op_type: str) -> bool:
    return (node.domain, node.op_type) == (NCHWC, op_type)


def _outer_names(graph: onnx.GraphProto) -> list[str]:
    """Names that subgraphs may read."""
    found: list[str] = []
    for node in graph.node:
        for attribute in node.attribute:
            for inner in (attribute.g, *attribute.graphs):
                found += [name for n in inner.node for name in n.input] + _outer_names(inner)
    return found


def _obstacle(
    model: onnx.ModelProto, node: onnx.NodeProto, before: onnx.NodeProto, after: list[onnx.NodeProto], readers: Counter[str],
    block: int,
) -> str | None:  # fmt: skip
    if not all(_is(n, "ReorderInput") for n in after) or readers[node.output[0]] != len(after):
        return "its result is also read in the plain layout"
    if readers[node.input[0]] != 1:
        return "its input is also read in the plain layout"
    if any(_int(n, "channels_last") for n in (before, *after)):
        return "the layout has the channels last"
    if _int(node, "groups", 1) != 1:
        return _obstacle_of_groups(node, _int(before, "channels"), block)
    return None if _finite_at_zero(model, node) else "its value at 0 is not known to be finite"


def _obstacle_of_groups(node: onnx.NodeProto, channels: int, block: int) -> str | None:
    groups, axis = _int(node, "groups", 1), _int(node, "axis", 1)
    if axis not in (1, -3):
        return f"its coefficients differ along axis {axis}, not between channels"
    if not block or not channels or channels % block:
        return f"its coefficients differ between channels, and {channels} channels are not whole blocks of {block}"
    own = channels // groups
    if channels % groups or (own > 1 and own % block):
        return f"its coefficients differ between groups of {own} channels, which are not whole blocks of {block}"
    return None


def _int(node: onnx.NodeProto, name: str, default: int = 0) -> int:
    return next((int(a.i) for a in node.attribute if a.name == name), default)


def _finite_at_zero(model: onnx.ModelProto, node: onnx.NodeProto) -> bool:
    values = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
    stored = {t.name: t for t in model.graph.initializer}
    if node.op_type == FIXED_OP_TYPE:
        found = [values.get(name) for name in ("numerator", "denominator")]
    else:
        found = [stored.get(name) for name in node.input[1:3]]
    if found[0] is None or (found[1] is None and node.op_type != FIXED_OP_TYPE):
        return False
    c, d = (np.zeros(0) if t is None else numpy_helper.to_array(t) for t in found)
    config = Config(values["basis"].decode(), values["form"].decode(), tuple(values["degrees"]))
    return bool(np.isfinite(oracle.evaluate(config, np.zeros(1), c, d).value).all())


def _bypass(graph: onnx.GraphProto, node: onnx.NodeProto, before: onnx.NodeProto, after: list[onnx.NodeProto]) -> None:
    """The activation reads and writes blocks; who read a reordered result reads the activation's own."""
    node.input[0] = before.input[0]
    renamed = {name for n in after for name in n.output}
    for reader in graph.node:
        for i, name in enumerate(reader.input):
            if name in renamed:
                reader.input[i] = node.output[0]
    # Their shapes were those of the plain layout.
    stale = {node.output[0], before.output[0], *renamed}
    for info in [v for v in graph.value_info if v.name in stale]:
        graph.value_info.remove(info)
