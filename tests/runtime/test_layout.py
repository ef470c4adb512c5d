"""Activations inside onnxruntime's blocked layout: the same bits, only where it is right, from a cache that may be broken."""

from __future__ import annotations

import logging
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from torch import Tensor, nn

from opau_onnx import ValidationConfig, collapse_model, create_session, export_model
from opau_onnx.compare.arrays import array, ort_value
from opau_onnx.errors import SpecError
from opau_onnx.native.library import get_library_path
from opau_onnx.nn import HP1, OrthogonalPade
from opau_onnx.runtime import layout, layout_cache, optimize
from opau_onnx.runtime.assignment import assignments
from tests.custom_ops.library import required_library


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    required_library()
    monkeypatch.setenv("OPAU_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "layout"


def convolutions(channels: int = 64, activation: Any = HP1, count: int = 3) -> nn.Module:
    torch.manual_seed(0)
    layers = [nn.Conv2d(3 if i == 0 else channels, channels, 3, padding=1) for i in range(count)]
    return nn.Sequential(*(part for layer in layers for part in (layer, activation()))).eval()


class Residual(nn.Module):
    """What the activation reads, and what it gives, is read in other places too."""

    def __init__(self, outer: bool) -> None:
        super().__init__()
        self.one, self.two, self.three = (nn.Conv2d(3 if i == 0 else 32, 32, 3, padding=1) for i in range(3))
        self.first, self.second, self.outer = HP1(), HP1(), outer

    def forward(self, x: Tensor) -> Tensor:
        before = self.one(x)
        after = self.first(before)
        value: Tensor = self.two(after) + (before if self.outer else after)
        return self.three(self.second(value))


def exported(net: nn.Module, folder: Path) -> Path:
    export_model(net.eval(), folder / "net.onnx", torch.randn(2, 3, 12, 12), validate=False)
    return folder / "net.onnx"


def reorders(path: Path, folder: Path) -> int:
    """Reorders that onnxruntime itself puts into the model."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    options.register_custom_ops_library(get_library_path())
    options.optimized_model_filepath = str(folder / "optimized.onnx")
    onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
    return count(onnx.load(folder / "optimized.onnx"))


def entry(cache: Path) -> bytes:
    """The only one, without its hash."""
    (kept,) = cache.iterdir()
    content = layout_cache.verified(kept.name, kept.read_bytes())
    assert content is not None
    return content


def kept_model(cache: Path) -> onnx.ModelProto:
    return onnx.load_model_from_string(entry(cache))


def count(model: onnx.ModelProto) -> int:
    return Counter(n.domain for n in model.graph.node if "Reorder" in n.op_type)[layout.NCHWC]


def blocked(path: Path) -> bool:
    """Whether onnxruntime has a blocked layout for this machine at all."""
    if not reorders(path, path.parent):
        pytest.skip("onnxruntime has no blocked layout on this machine")
    return True


def both(path: Path, *shape: int) -> tuple[Any, Any]:
    x = np.random.default_rng(1).standard_normal(shape, dtype=np.float32)
    sessions = [create_session(path, "cpu", optimize=how) for how in ("layout", "none")]  # type: ignore[arg-type]
    for session in sessions:
        assert {a.implementation for a in assignments(session)} == {"kernel"}
    one, two = (s.run(None, {s.get_inputs()[0].name: x})[0] for s in sessions)
    return one, two


@pytest.mark.parametrize("channels", [32, 64, 48, 20, 6])
def test_the_same_bits(channels: int, tmp_path: Path, cache: Path) -> None:
    path = exported(convolutions(channels), tmp_path)
    for batch in (1, 5):
        one, two = both(path, batch, 3, 12, 12)
        assert one.tobytes() == two.tobytes()


def test_the_reorders_are_gone(tmp_path: Path, cache: Path) -> None:
    path = exported(convolutions(), tmp_path)
    assert blocked(path)
    both(path, 1, 3, 12, 12)
    assert count(kept_model(cache)) == reorders(path, tmp_path) - 4  # the last activation's result leaves the model


def different(groups: int) -> HP1:
    """HP-1 with coefficients of its own for each group."""
    made = HP1(groups=groups)
    with torch.no_grad():
        for values in (made.numerator, made.denominator):
            values *= 1 + 0.2 * torch.rand(values.shape)
    return made


@pytest.mark.parametrize("groups", [2, 64, 32])
def test_channels_that_differ(groups: int, tmp_path: Path, cache: Path) -> None:
    """Groups of whole blocks, a row for each channel, and groups of two channels, which keep their reorders."""
    path = exported(convolutions(64, lambda: different(groups)), tmp_path)
    assert blocked(path)
    for batch in (1, 5):
        one, two = both(path, batch, 3, 12, 12)
        assert one.tobytes() == two.tobytes()
    assert entry(cache).startswith(optimize.NOTHING) == (groups == 32)
    if groups != 32:
        assert count(kept_model(cache)) == reorders(path, tmp_path) - 4


@pytest.mark.parametrize("groups", [1, 64])
def test_batch_norms_absorbed_by_the_fused_form(groups: int, tmp_path: Path, cache: Path) -> None:
    """A residual network that normalizes before it activates: each channel has its own scale and shift."""
    torch.manual_seed(1)

    class PreActivation(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.norm, self.activation, self.layer = nn.BatchNorm2d(64), different(groups), nn.Conv2d(64, 64, 3, padding=1)

        def forward(self, x: Tensor) -> Tensor:
            value: Tensor = x + self.layer(self.activation(self.norm(x)))
            return value

    net = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), *(PreActivation() for _ in range(3)))
    for part in net.modules():
        if isinstance(part, nn.BatchNorm2d):
            part.running_mean.normal_()  # type: ignore[union-attr]
            part.running_var.uniform_(0.5, 2.0)  # type: ignore[union-attr]
    path, fused = exported(net, tmp_path), tmp_path / "fused.onnx"
    assert collapse_model(path, fused, "fused", comparing=ValidationConfig(skip=True)).replaced[0].absorbed == (
        "BatchNormalization",
    )
    assert blocked(fused)
    for batch in (1, 5):
        one, two = both(fused, batch, 3, 12, 12)
        assert one.tobytes() == two.tobytes()
    inside = kept_model(cache)
    assert sum(a.name == layout.BLOCK for n in inside.graph.node for a in n.attribute) == 3
    assert count(inside) < reorders(fused, tmp_path)


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16", "bfloat16"])
@pytest.mark.parametrize("block", [4, 8, 16])
def test_the_kernel_finds_channels_in_blocks(block: int, dtype: str) -> None:
    """Any block, any dtype, many sizes: the bits of the plain layout, in the other order."""
    for channels, groups, pixels, affine in ((32, 32, 5, False), (32, 2, 7, False), (32, 32, 3000, True), (16, 16, 1, True)):
        plain, inside = (_fixed(channels, groups, dtype, affine, size) for size in (0, block))
        x = np.random.default_rng(pixels).standard_normal((2, channels, pixels, 1))
        moved = x.reshape(2, channels // block, block, pixels).swapaxes(2, 3)
        want, got = (_run(m, v.reshape(x.shape), dtype) for m, v in ((plain, x), (inside, moved)))
        back = got.reshape(moved.shape).swapaxes(2, 3).reshape(x.shape)
        assert back.tobytes() == want.tobytes()


def _fixed(channels: int, groups: int, dtype: str, affine: bool, block: int) -> bytes:
    rng = np.random.default_rng(7)
    compute = np.float64 if dtype == "float64" else np.float32
    rows = () if affine else (groups,)
    tensors = {"numerator": rng.normal(size=(*rows, 6)), "denominator": rng.normal(size=(*rows, 5 - 1))}
    if affine:
        tensors |= {"scale": rng.normal(size=groups), "shift": rng.normal(size=groups)}
    attributes = {name: onnx.numpy_helper.from_array(v.astype(compute), name) for name, v in tensors.items()}
    node = onnx.helper.make_node(
        "FixedOrthogonalPade", ["x"], ["y"], name="n", domain="ai.opau", basis="hermite_e", form="abs_terms", degrees=[5, 4],
        groups=groups, axis=1, **attributes, **({layout.BLOCK: block} if block else {}),
    )  # fmt: skip
    kind = getattr(onnx.TensorProto, {"float32": "FLOAT", "float64": "DOUBLE"}.get(dtype, dtype.upper()))
    ends = [onnx.helper.make_tensor_value_info(n, kind, [None, channels, None, 1]) for n in "xy"]
    opsets = [onnx.helper.make_opsetid("", 20), onnx.helper.make_opsetid("ai.opau", 1)]
    graph = onnx.helper.make_graph([node], "g", ends[:1], ends[1:])
    return bytes(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())


def _run(model: bytes, x: Any, dtype: str) -> Any:
    session = create_session(model, "cpu", optimize="none", library=True)
    tensor = torch.from_numpy(np.ascontiguousarray(x)).to(getattr(torch, dtype))
    return array(session.run_with_ort_values(None, {"x": ort_value(tensor)})[0])


def test_blocks_that_do_not_fit_are_an_error() -> None:
    with pytest.raises(Exception, match="blocks of 16 channels do not fit 24 groups of 1 channels"):
        _run(_fixed(24, 24, "float32", False, 16), np.zeros((1, 24, 2, 1)), "float32")


@pytest.mark.parametrize("block", [-4, 3, 24, 128, 512, 1024, 2**40])
def test_blocks_that_there_are_not(block: int) -> None:
    """A block larger than the kernel's table was a step of 0 elements: it ran for ever."""
    with pytest.raises(Exception, match=f"'channel_block' is {block}; expected 0, or a power of two up to 64"):
        _run(_fixed(1024, 1024, "float32", True, block), np.zeros((1, 1024, 2, 1)), "float32")


@pytest.mark.parametrize(("name", "value"), [("groups", "4"), ("axis", 1.0), ("groups", [1, 2]), ("channel_block", "8")])
def test_attributes_of_another_type(name: str, value: Any) -> None:
    """They were taken for missing, and the default used."""
    model = onnx.load_model_from_string(_fixed(24, 24, "float32", False, 0))
    (node,) = model.graph.node
    kept = [a for a in node.attribute if a.name != name]
    del node.attribute[:]
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, value)])
    with pytest.raises(Exception, match=f"attribute '{name}' is not a whole number"):
        _run(model.SerializeToString(), np.zeros((1, 24, 2, 1)), "float32")


@pytest.mark.parametrize("groups", [0, -1, 2**31 + 1, 2**62])
def test_groups_that_there_cannot_be(groups: int) -> None:
    model = onnx.load_model_from_string(_fixed(24, 1, "float32", False, 0))
    for attribute in model.graph.node[0].attribute:
        if attribute.name == "groups":
            attribute.i = groups
    with pytest.raises(Exception, match=f"groups is {groups}; expected 1 to"):
        _run(model.SerializeToString(), np.zeros((1, 24, 2, 1)), "float32")


@pytest.mark.parametrize("outer", [False, True])
def test_other_readers(outer: bool, tmp_path: Path, cache: Path) -> None:
    path = exported(Residual(outer), tmp_path)
    one, two = both(path, 2, 3, 12, 12)
    assert one.tobytes() == two.tobytes()


def optimized(net: nn.Module, folder: Path) -> onnx.ModelProto:
    path = exported(net, folder)
    assert blocked(path)
    return onnx.load(folder / "optimized.onnx")


def test_what_must_not_match(tmp_path: Path) -> None:
    groups = layout.rewrite(optimized(convolutions(32, lambda: HP1(groups=4)), tmp_path))
    assert not groups.removed
    assert set(groups.kept.values()) == {"its coefficients differ between channels, and 32 channels are not whole blocks of 0"}
    few = layout.rewrite(optimized(convolutions(32, lambda: HP1(groups=16)), tmp_path), 8)
    assert set(few.kept.values()) == {"its coefficients differ between groups of 2 channels, which are not whole blocks of 8"}
    odd = layout.rewrite(optimized(convolutions(20, lambda: HP1(groups=20)), tmp_path), 8)
    assert set(odd.kept.values()) == {"its coefficients differ between channels, and 20 channels are not whole blocks of 8"}
    last = layout.rewrite(optimized(convolutions(32, lambda: HP1(groups=12, axis=-1)), tmp_path), 8)
    assert set(last.kept.values()) == {"its coefficients differ along axis -1, not between channels"}
    free = OrthogonalPade("power", (1, 1), "free")
    with torch.no_grad():
        free.denominator[:] = torch.tensor([0.0, 1.0])  # 1 / 0 at 0
    poles = layout.rewrite(optimized(convolutions(32, lambda: free), tmp_path))
    assert not poles.removed
    assert set(poles.kept.values()) == {"its value at 0 is not known to be finite"}
    model = optimized(convolutions(32), tmp_path)
    read = [n.input[0] for n in model.graph.node if n.op_type == "OrthogonalPade"]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in read)
    assert set(layout.rewrite(model).kept.values()) == {"its input is also read in the plain layout"}


def test_a_result_that_is_also_an_output_keeps_its_layout(tmp_path: Path) -> None:
    model = optimized(convolutions(32), tmp_path)
    written = [n.output[0] for n in model.graph.node if n.op_type == "OrthogonalPade"]
    model.graph.output.extend(onnx.helper.make_tensor_value_info(name, 1, None) for name in written)
    found = layout.rewrite(model)
    assert not found.removed
    assert set(found.kept.values()) == {"its result is also read in the plain layout"}


@pytest.mark.parametrize("end", ["input", "output"])
def test_what_a_subgraph_reads_keeps_its_layout(end: str, tmp_path: Path) -> None:
    """Subgraphs see the names of the graph around them, and read them in the plain layout."""
    model = optimized(convolutions(32), tmp_path)
    names = [getattr(n, end)[0] for n in model.graph.node if n.op_type == "OrthogonalPade"]
    inner = [onnx.helper.make_node("Identity", [n], [f"{n}/inner"]) for n in names]
    branch = onnx.helper.make_graph(inner, "branch", [], [onnx.helper.make_empty_tensor_value_info(n.output[0]) for n in inner])
    condition = onnx.helper.make_tensor("condition", onnx.TensorProto.BOOL, [], [True])
    model.graph.initializer.append(condition)
    outputs = [f"{n}/if" for n in names]
    model.graph.node.append(onnx.helper.make_node("If", ["condition"], outputs, then_branch=branch, else_branch=branch))
    found = layout.rewrite(model)
    assert not found.removed
    word = "input" if end == "input" else "result"
    assert all(f"its {word} is also read in the plain layout" == reason for reason in found.kept.values())


def test_made_once_and_kept(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = exported(convolutions(), tmp_path)
    assert blocked(path)
    create_session(path, "cpu")
    assert len(list(cache.iterdir())) == 1
    monkeypatch.setattr(optimize, "_make", lambda *_: pytest.fail("made again"))
    create_session(path, "cpu")
    create_session(path.read_bytes(), "cpu")


def test_whatever_shapes_the_file_is_in_its_key(tmp_path: Path) -> None:
    content = exported(convolutions(), tmp_path).read_bytes()
    library = tmp_path / "library"
    library.write_bytes(b"one")

    def key(model: bytes = content, processor: str | None = None, **changes: Any) -> str:
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 4
        options.register_custom_ops_library(get_library_path())
        for name, value in changes.items():
            change = getattr(options, name)
            change(*value) if callable(change) else setattr(options, name, value)
        return layout_cache.key(model, str(library), options, processor)

    named = onnx.load_model_from_string(content)
    axis = named.graph.input[0].type.tensor_type.shape.dim[0].dim_param
    named.doc_string = "another"
    keys = [
        key(),
        key(named.SerializeToString()),
        key(processor="another"),
        key(add_free_dimension_override_by_name=(axis, 2)),
        key(add_session_config_entry=("optimization.disable_specified_optimizers", "ConvActivationFusion")),
        key(add_session_config_entry=("session.set_denormal_as_zero", "1")),
        key(use_deterministic_compute=True),
    ]
    library.write_bytes(b"two")
    keys.append(key())
    assert len(set(keys)) == len(keys)
    library.write_bytes(b"one")
    assert key(logid="n", log_severity_level=3) == key() == keys[0]
    assert layout_cache.this_processor()


def test_a_session_never_gets_the_model_of_other_options(tmp_path: Path, cache: Path) -> None:
    """A size given by the options is folded into the file that onnxruntime optimizes."""
    path = exported(convolutions(), tmp_path)
    assert blocked(path)
    axis = onnx.load(path).graph.input[0].type.tensor_type.shape.dim[0].dim_param
    options = onnxruntime.SessionOptions()
    options.add_free_dimension_override_by_name(axis, 4)
    create_session(path, "cpu", session_options=options)
    session = create_session(path, "cpu")
    assert session.get_inputs()[0].shape[0] == axis
    assert len(list(cache.iterdir())) == 2


def test_every_flipped_byte_is_found(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = exported(convolutions(), tmp_path)
    assert blocked(path)
    create_session(path, "cpu")
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    rng = np.random.default_rng(0)
    for at in (0, 30, 90, len(whole) - 1, *rng.integers(0, len(whole), 200)):
        changed = bytearray(whole)
        changed[at] ^= 1 << int(rng.integers(0, 8))
        assert layout_cache.verified(kept.name, bytes(changed)) is None
    assert layout_cache.verified("another name", whole) is None
    changed = bytearray(whole)
    changed[len(whole) // 2] ^= 1
    kept.write_bytes(changed)
    with caplog.at_level(logging.WARNING, "opau_onnx"):
        create_session(path, "cpu")
    assert "is damaged and made again" in caplog.text
    assert entry(cache)


def test_a_damaged_entry_is_made_again(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = exported(convolutions(), tmp_path)
    assert blocked(path)
    create_session(path, "cpu")
    (kept,) = cache.iterdir()
    kept.write_bytes(kept.read_bytes()[:1000])
    with caplog.at_level(logging.WARNING, "opau_onnx"):
        one, two = both(path, 1, 3, 12, 12)
    assert one.tobytes() == two.tobytes()
    assert "is damaged and made again" in caplog.text
    assert count(kept_model(cache)) == reorders(path, tmp_path) - 4


def test_no_cache_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("OPAU_CACHE", str(tmp_path / "file"))
    path = exported(convolutions(), tmp_path)
    assert blocked(path)
    with caplog.at_level(logging.INFO, "opau_onnx"):
        create_session(path, "cpu")
    assert "is not kept" in caplog.text
    assert "2 activations run inside" in caplog.text


def test_other_results_are_not_used(tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    """A rewrite that is wrong: it leaves a ReorderInput out, but not the ReorderOutput before it."""
    path = exported(convolutions(), tmp_path)
    assert blocked(path)
    honest = layout.rewrite

    def wrong(model: onnx.ModelProto, block: int) -> layout.Rewritten:
        found = honest(model, block)
        for tensor in model.graph.initializer:
            if tensor.name.endswith("numerator"):
                values = onnx.numpy_helper.to_array(tensor) * np.float32(1.001)
                tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
        return found

    monkeypatch.setattr(layout, "rewrite", wrong)
    with caplog.at_level(logging.INFO, "opau_onnx"):
        session = create_session(path, "cpu")
    assert "gave other results" in caplog.text
    monkeypatch.undo()
    x = np.ones((1, 3, 12, 12), np.float32)
    name = session.get_inputs()[0].name
    plain = create_session(path, "cpu", optimize="none")
    assert np.array_equal(session.run(None, {name: x})[0], plain.run(None, {name: x})[0])


def test_why_it_does_not_apply(tmp_path: Path, cache: Path, caplog: pytest.LogCaptureFixture) -> None:
    linear = nn.Sequential(nn.Linear(4, 4), HP1()).eval()
    export_model(linear, tmp_path / "linear.onnx", torch.randn(2, 4), validate=False)
    for _ in range(2):  # the second time from the cache
        caplog.clear()
        with caplog.at_level(logging.INFO, "opau_onnx"):
            create_session(tmp_path / "linear.onnx", "cpu")
        assert "blocked layout: none of them can run inside it" in caplog.text
    path = exported(convolutions(), tmp_path)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_ENABLE_BASIC
    with caplog.at_level(logging.INFO, "opau_onnx"):
        create_session(path, "cpu", session_options=options)
    assert "do not ask for all optimizations" in caplog.text


def test_the_users_options_come_back_as_they_were(tmp_path: Path) -> None:
    path = exported(convolutions(), tmp_path)
    options = onnxruntime.SessionOptions()
    before = (options.graph_optimization_level, options.optimized_model_filepath, options.log_severity_level)
    create_session(path, "cpu", session_options=options)
    assert (options.graph_optimization_level, options.optimized_model_filepath, options.log_severity_level) == before


def test_weights_in_other_files(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    export_model(convolutions(), tmp_path / "n.onnx", torch.randn(2, 3, 12, 12), validate=False, external_data=True)
    with caplog.at_level(logging.INFO, "opau_onnx"):
        create_session(tmp_path / "n.onnx", "cpu")
    assert "weights in other files" in caplog.text


def test_usage(tmp_path: Path) -> None:
    with pytest.raises(SpecError, match="expected 'layout' or 'none'"):
        create_session(exported(convolutions(), tmp_path), "cpu", optimize="fast")  # type: ignore[arg-type]


def test_a_process_whose_sessions_share_one_pool(tmp_path: Path) -> None:
    """onnxruntime then refuses sessions with threads of their own: the probe of the blocks must follow the user's options."""
    code = (
        "import onnxruntime; from opau_onnx.runtime.optimize import block_size\n"
        "own = block_size(); onnxruntime.set_global_thread_pool_sizes(1, 1); block_size.cache_clear()\n"
        "assert block_size(False) == own, (block_size(False), own)"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
