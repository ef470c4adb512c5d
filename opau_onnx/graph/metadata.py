"""Metadata of a file: the keys of its metadata, and the records of its activations."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from typing import Any

import onnx
import onnx_ir as ir

from opau_onnx._version import __version__
from opau_onnx.graph.nodes import node_attributes, opau_nodes, read_config

METADATA = "opau.collapse"
RECORD = "opau.file."
"""Begins the key of the record of an exported file."""
MODULE = "opau.module"
"""Key of a node's metadata: the qualified name of the torch module that it comes from."""


def describe(model: ir.Model) -> list[dict[str, Any]]:
    """One record for each activation: node, torch module, configuration, shapes and names of the coefficients."""
    records = []
    for node in opau_nodes(model):
        config = read_config(node)
        records.append(
            {
                "node": node.name,
                "module": node.metadata_props.get(MODULE, ""),
                **node_attributes(config),
                "numerator": node.inputs[1].name,
                "denominator": node.inputs[2].name,
            }
        )
    return records


def add_metadata(model: ir.Model, source_kind: str, source_sha256: str | None, dtype: str, guards: Sequence[str] = ()) -> None:
    """Say in the file what it is, for which sizes it holds and what made it; nothing of the machine.

    What differs between files stands under a key of its own for each, :data:`RECORD` and a digest: onnx.compose refuses to
    merge models with different values for one key.
    """
    import onnxscript
    import torch  # here: files are read where there is none

    record: dict[str, Any] = {
        "activations": describe(model),
        "source": source_kind,
        "source_sha256": source_sha256 or "none (a module in memory)",
    }
    if guards:
        record["guards"] = list(guards)
    text = json.dumps(record, sort_keys=True)
    model.producer_name, model.producer_version = "opau_onnx", __version__
    model.metadata_props.update(
        {
            RECORD + hashlib.sha256(text.encode()).hexdigest()[:12]: text,
            "opau.dtype": dtype,
            "opau.versions": json.dumps(
                {
                    "onnx": onnx.__version__,
                    "onnx_ir": ir.__version__,
                    "onnxscript": onnxscript.__version__,
                    "opau_onnx": __version__,
                    "torch": torch.__version__.partition("+")[0],
                },
                sort_keys=True,
            ),
        }
    )
