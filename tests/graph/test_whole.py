"""Files as other tools leave them: every reader takes them, and says what it changed."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from onnx import helper
from torch import nn

from opau_onnx import export_model, verify_model
from opau_onnx.certify import activations
from opau_onnx.collapse.api import collapse_model
from opau_onnx.core.spec import OP_TYPE
from opau_onnx.errors import LoadError
from opau_onnx.graph import whole
from opau_onnx.nn import HP1, HP2

X = torch.linspace(-4, 4, 24).reshape(4, 6)


@pytest.fixture(scope="module")
def made(tmp_path_factory: Any) -> tuple[nn.Module, Path]:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(6, 6), HP1(), nn.Linear(6, 6), HP2()).eval()
    path = tmp_path_factory.mktemp("whole") / "net.onnx"
    export_model(net, path, X, validate=False)
    return net, path


def nodes(model: onnx.ModelProto) -> list[onnx.NodeProto]:
    return [n for n in model.graph.node if n.op_type == OP_TYPE]


def without_functions(model: onnx.ModelProto) -> str:
    del model.functions[:]
    for node in nodes(model):
        node.overload = ""
    return "had no function body"


def without_names(model: onnx.ModelProto) -> str:
    for node in model.graph.node:
        node.name = ""
    return "had no name of their own"


def without_defaults(model: onnx.ModelProto) -> str:
    for node in nodes(model):
        kept = [a for a in node.attribute if a.name not in ("groups", "axis")]
        del node.attribute[:]
        node.attribute.extend(kept)
    return "had no `groups` or `axis`"


def initializers_as_inputs(model: onnx.ModelProto) -> str:
    model.graph.input.extend(helper.make_tensor_value_info(t.name, t.data_type, t.dims) for t in model.graph.initializer)
    return "are inputs too"


def a_stale_dtype(model: onnx.ModelProto) -> str:
    next(e for e in model.metadata_props if e.key == "opau.dtype").value = "float16"
    return "say that it holds 'float16'"


def no_metadata(model: onnx.ModelProto) -> str:
    del model.metadata_props[:]
    for node in model.graph.node:
        del node.metadata_props[:]
    return ""


LEFT = [without_functions, without_names, without_defaults, initializers_as_inputs, a_stale_dtype, no_metadata]


@pytest.mark.parametrize("change", LEFT, ids=lambda f: f.__name__)
def test_what_other_tools_leave(change: Any, made: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    net, path = made
    model = onnx.load(path)
    told = change(model)
    changed = tmp_path / "changed.onnx"
    onnx.save(model, changed)
    before = changed.read_bytes()
    with caplog.at_level(logging.WARNING, "opau_onnx"):
        result = collapse_model(changed, tmp_path / "standard.onnx")
    assert result.equal
    assert result.source == changed
    assert told in caplog.text
    assert collapse_model(changed, tmp_path / "fused.onnx", "fused").equal
    found = verify_model(net, changed, X, runtimes=["ort-function"])
    assert found.equal
    assert found.files[0].file.path == changed
    assert len(activations.read(changed)) == 2
    assert changed.read_bytes() == before


def test_equal_names_in_both_branches(tmp_path: Path) -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = HP1(), HP2()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.cond(x.sum() > 0, self.one, self.two, (x,))

    path = tmp_path / "if.onnx"
    export_model(Branches().eval(), path, X, validate=False)
    model = onnx.load(path)
    (choice,) = [n for n in model.graph.node if n.op_type == "If"]
    for attribute in choice.attribute:
        for node in attribute.g.node:
            node.name = "same"
    onnx.save(model, path)
    names = [node for a in activations.read(path) for node in a.nodes]
    assert len(set(names)) == 2
    assert collapse_model(path, tmp_path / "out.onnx").equal


def test_weights_behind_links(made: Any, tmp_path: Path) -> None:
    """As hubs store them: files under their hashes, and links with the names."""
    net, path = made
    blobs, snapshot = tmp_path / "blobs", tmp_path / "snapshot"
    blobs.mkdir()
    snapshot.mkdir()
    model = onnx.load(path)
    onnx.save(model, blobs / "a", save_as_external_data=True, location="weights", size_threshold=0)
    (blobs / "weights").rename(blobs / "b")
    (snapshot / "m.onnx").symlink_to(blobs / "a")
    (snapshot / "weights").symlink_to(blobs / "b")
    file = snapshot / "m.onnx"
    assert len(activations.read(file)) == 2
    assert collapse_model(file, tmp_path / "out.onnx").equal
    assert verify_model(net, file, X, runtimes=["ort-function"]).equal
    elsewhere = tmp_path / "secret"
    elsewhere.write_bytes((blobs / "b").read_bytes())
    (snapshot / "weights").unlink()
    (snapshot / "weights").symlink_to(elsewhere)
    with pytest.raises(Exception, match="outside"):
        collapse_model(file, tmp_path / "out.onnx")


def test_onnx_parser_reads_what_its_printer_writes(made: Any, tmp_path: Path) -> None:
    model = onnx.load(made[1])
    again = onnx.parser.parse_model(onnx.printer.to_text(model))
    onnx.checker.check_model(again, full_check=True)
    assert [(f.name, f.overload) for f in again.functions] == [(f.name, f.overload) for f in model.functions]
    assert all(f.overload.isidentifier() for f in again.functions)


def test_two_files_merged(made: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """onnx.compose refuses different values of one key of the metadata, and renames functions with its prefix."""
    net, first = made
    torch.manual_seed(1)
    other = nn.Sequential(nn.Linear(6, 6), HP1(groups=3, axis=-1)).eval()
    export_model(other, tmp_path / "other.onnx", X, validate=False)
    one, two = (
        onnx.compose.add_prefix(onnx.load(path), prefix)
        for path, prefix in ((first, "one_"), (tmp_path / "other.onnx", "two_"))
    )
    merged = onnx.compose.merge_models(one, two, io_map=[(one.graph.output[0].name, two.graph.input[0].name)])
    onnx.checker.check_model(merged, full_check=True)
    path = tmp_path / "merged.onnx"
    onnx.save(merged, path)
    assert sum(len(a.nodes) for a in activations.read(path)) == 5  # three groups among them
    with caplog.at_level(logging.WARNING, "opau_onnx"):
        assert collapse_model(path, tmp_path / "out.onnx").equal
    assert "3 activations are named with a prefix" in caplog.text
    assert verify_model(nn.Sequential(net, other).eval(), path, X, runtimes=["ort-function"]).files[0].file.path == path


def test_a_restored_body_computes_what_the_old_one_did(made: Any, tmp_path: Path) -> None:
    _, path = made
    model = onnx.load(path)
    without_functions(model)
    whole.make_whole(model)
    feed = {model.graph.input[0].name: X.numpy()}
    one, two = (
        onnxruntime.InferenceSession(m.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feed)[0]
        for m in (model, onnx.load(path))
    )
    assert np.array_equal(one, two)


def test_whole_files_are_left_alone(made: Any) -> None:
    assert whole.make_whole(onnx.load(made[1])) == []
    with whole.whole_file(made[1]) as same:
        assert same == made[1]


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"junk", "is not an ONNX model"), (b"", "has no learned activation"), (None, "does not exist")],
)
def test_what_is_no_file(content: bytes | None, message: str, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(Exception, match=message):
        collapse_model(path, tmp_path / "out.onnx")


def test_names_that_are_no_text(made: Any, tmp_path: Path) -> None:
    content = made[1].read_bytes()
    name = onnx.load(made[1]).graph.node[0].name.encode()
    assert name in content
    broken = tmp_path / "m.onnx"
    broken.write_bytes(content.replace(name, b"\xff" + name[1:], 1))
    with pytest.raises(LoadError, match="not an ONNX model"):
        whole.read_model(broken)
