"""Which provider and which implementation runs each OPAU node, from onnxruntime's own record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from opau_onnx.core.spec import DOMAIN, OP_TYPES

if TYPE_CHECKING:
    import onnxruntime

RECORD = "session.record_ep_graph_assignment_info"
"""onnxruntime's session configuration that keeps the record."""

_INLINED = tuple(f"_inlfunc_{op_type}_" for op_type in OP_TYPES)
"""How onnxruntime names the nodes of our functions' bodies when it inlines them."""


@dataclass(frozen=True)
class Assignment:
    """How OPAU nodes are run.

    Attributes:
        nodes: names of the nodes; empty for function bodies, which onnxruntime takes apart.
        provider: onnxruntime's name of the execution provider.
        implementation: "kernel" (compiled) or "function" (the body in the file).
        operations: nodes that run: one for each activation in "kernel", all those of the bodies in "function".
    """

    nodes: tuple[str, ...]
    provider: str
    implementation: Literal["kernel", "function"]
    operations: int

    def __str__(self) -> str:
        if self.implementation == "kernel":
            return f"{self.operations} activations by the compiled kernel on {self.provider}"
        return f"activations by their function bodies, {self.operations} operations, on {self.provider}"


def assignments(session: onnxruntime.InferenceSession) -> list[Assignment]:
    """The implementation that runs each OPAU node of a session that :func:`~opau_onnx.create_session` made.

    Nodes in the branches of an ``If`` or the body of a ``Loop`` are not in onnxruntime's record.

    Raises:
        onnxruntime's error: the session was made without its record (configuration entry :data:`RECORD`).
    """
    kernels: dict[str, list[str]] = {}
    bodies: Counter[str] = Counter()
    for provider, name, domain, op_type in _record(session):
        if domain == DOMAIN and op_type in OP_TYPES:
            kernels.setdefault(provider, []).append(name)
        elif any(sign in name for sign in _INLINED):
            bodies[provider] += 1
    found = [Assignment(tuple(names), provider, "kernel", len(names)) for provider, names in kernels.items()]
    return found + [Assignment((), provider, "function", count) for provider, count in bodies.items()]


def _record(session: onnxruntime.InferenceSession) -> Iterable[tuple[str, str, str, str]]:
    for part in session.get_provider_graph_assignment_info():
        for node in part.get_nodes():
            yield part.ep_name, node.name, node.domain, node.op_type
