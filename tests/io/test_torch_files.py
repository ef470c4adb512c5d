"""Files that could run code are refused, and nothing of them runs."""

from __future__ import annotations

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from typer.testing import CliRunner

from opau_onnx.cli.export import app
from opau_onnx.errors import LoadError
from opau_onnx.io import pt2_scan, torch_files
from opau_onnx.io.source import load
from opau_onnx.nn import HP1


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, proof: Path) -> None:
        self.proof = proof

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.proof,)


@pytest.fixture
def proof(tmp_path: Path) -> Path:
    """The file that appears if code ran."""
    return tmp_path / "it-ran"


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("program") / "net.pt2"
    net = nn.Sequential(nn.Linear(4, 5), HP1(), nn.Linear(5, 3)).eval()
    batch = torch.export.Dim("batch")
    torch.export.save(torch.export.export(net, (torch.randn(2, 4),), dynamic_shapes=({0: batch},)), path)
    return path


def rewrite(source: Path, target: Path, change: Any, extra: dict[str, bytes] | None = None) -> None:
    """Copy an archive; ``change(name, content)`` gives the new content of each member."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            new.writestr(name, change(name, old.read(name)))
        root = old.namelist()[0].partition("/")[0]
        for name, content in (extra or {}).items():
            new.writestr(f"{root}/{name}", content)


def refused(path: Path, proof: Path) -> str:
    """Both the library and the command refuse the file; returns the message."""
    with pytest.raises(LoadError) as error:
        load(path)
    output = path.parent / "out.onnx"
    done = CliRunner().invoke(
        app, [str(path), str(output), "--input-shape", "1,4"] if path.suffix != ".pt2" else [str(path), str(output)]
    )
    assert done.exit_code == 2
    assert not output.exists()
    assert not proof.exists(), "code in the file ran"
    return str(error.value)


def test_the_payload_works_where_it_is_asked_for(tmp_path: Path, proof: Path) -> None:
    torch.save({"weight": Payload(proof)}, tmp_path / "bad.pt")
    with pytest.raises(LoadError):
        load(tmp_path / "bad.pt", allow_pickle=True)
    assert proof.exists()  # so the other tests can fail


@pytest.mark.parametrize("suffix", [".pt", ".pth", ".bin", ".safetensors"])
@pytest.mark.parametrize("wrap", ["bare", "state_dict", "checkpoint"])
def test_malicious_torch_files(tmp_path: Path, proof: Path, suffix: str, wrap: str) -> None:
    content: Any = {"bare": Payload(proof), "state_dict": {"weight": Payload(proof)},
                    "checkpoint": {"format": "opau_onnx.checkpoint/1", "arguments": Payload(proof)}}[wrap]  # fmt: skip
    path = tmp_path / f"bad{suffix}"
    torch.save(content, path)
    assert "bad" in refused(path, proof)


def test_a_raw_pickle_and_the_legacy_format(tmp_path: Path, proof: Path) -> None:
    raw, legacy = tmp_path / "raw.pt", tmp_path / "legacy.pt"
    raw.write_bytes(pickle.dumps(Payload(proof)))
    torch.save({"weight": Payload(proof)}, legacy, _use_new_zipfile_serialization=False)
    for path in (raw, legacy):
        assert "--allow-pickle" in refused(path, proof)


def test_a_pickled_module_needs_the_flag(tmp_path: Path) -> None:
    path = tmp_path / "net.pt"
    torch.save(nn.Sequential(nn.Linear(4, 3), HP1()).eval(), path)
    with pytest.raises(LoadError, match="--allow-pickle"):
        load(path)
    assert load(path, allow_pickle=True, input_shapes=[(1, 4)]).kind == "pickled module"


def test_the_program_is_good_before_it_is_tampered_with(program: Path) -> None:
    assert load(program).kind == "exported program"


def test_a_pickle_in_place_of_sample_inputs(program: Path, tmp_path: Path, proof: Path) -> None:
    bad = tmp_path / "bad.pt2"
    torch.save(Payload(proof), tmp_path / "payload")
    payload = (tmp_path / "payload").read_bytes()
    rewrite(program, bad, lambda name, content: payload if "sample_inputs" in name else content)
    assert "sample_inputs" in refused(bad, proof)


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_weight_that_is_flagged_as_pickled(program: Path, tmp_path: Path, proof: Path, protocol: int) -> None:
    bad = tmp_path / "bad.pt2"
    payload = pickle.dumps(Payload(proof), protocol=protocol)

    def change(name: str, content: bytes) -> bytes:
        if name.endswith("weights_config.json"):
            config = json.loads(content)
            for entry in config["config"].values():
                entry["use_pickle"] = True
            return json.dumps(config).encode()
        return payload if "data/weights/weight_" in name else content

    rewrite(program, bad, change)
    refused(bad, proof)


@pytest.mark.parametrize("member", ["data/constants/custom_obj_0", "data/constants/opaque_obj_0"])
@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_pickled_constants(program: Path, tmp_path: Path, proof: Path, member: str, protocol: int) -> None:
    bad = tmp_path / "bad.pt2"
    name = member.rpartition("/")[2]
    payload = pickle.dumps(Payload(proof), protocol=protocol)

    def change(path: str, content: bytes) -> bytes:
        if path.endswith("constants_config.json"):
            entry = {"path_name": name, "is_param": False, "use_pickle": True, "tensor_meta": None}
            return json.dumps({"config": {"thing": entry}}).encode()
        return content

    rewrite(program, bad, change, {member: payload})
    refused(bad, proof)


def test_compiled_code(program: Path, tmp_path: Path, proof: Path) -> None:
    bad = tmp_path / "bad.pt2"
    rewrite(program, bad, lambda _, content: content, {"data/aotinductor/model/model.so": b"\x7fELF"})
    assert "compiled code" in refused(bad, proof)


def test_an_expression_that_is_a_program(program: Path, tmp_path: Path, proof: Path) -> None:
    bad = tmp_path / "bad.pt2"
    code = f"__import__('pathlib').Path({str(proof)!r}).touch()"

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        tree = json.loads(content)
        assert replace_expressions(tree, code), "the program holds no symbolic size"
        return json.dumps(tree).encode()

    rewrite(program, bad, change)
    refused(bad, proof)


@pytest.mark.parametrize("target", ["torch.os.system", "torch.load", "_operator.attrgetter", "torch.ops.load_library", "#ext:x",
                                    "torch.ops.aten.__class__.mro", "math.__loader__.load_module"])  # fmt: skip
def test_a_call_of_something_that_is_no_operator(program: Path, tmp_path: Path, proof: Path, target: str) -> None:
    bad = tmp_path / "bad.pt2"

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        tree = json.loads(content)
        tree["graph_module"]["graph"]["nodes"][0]["target"] = target
        return json.dumps(tree).encode()

    rewrite(program, bad, change)
    assert "no operator" in refused(bad, proof)


def test_a_guard_that_is_a_program(program: Path, tmp_path: Path, proof: Path) -> None:
    bad = tmp_path / "bad.pt2"
    code = f"__import__('pathlib').Path({str(proof)!r}).touch() is None"

    def change(name: str, content: bytes) -> bytes:
        if not name.endswith("models/model.json"):
            return content
        return json.dumps({**json.loads(content), "guards_code": [code]}).encode()

    rewrite(program, bad, change)
    assert "guard" in refused(bad, proof)


def test_two_members_of_one_name(program: Path, tmp_path: Path, proof: Path) -> None:
    bad = tmp_path / "bad.pt2"
    with zipfile.ZipFile(program) as archive:
        name = next(n for n in archive.namelist() if n.endswith("models/model.json"))
    rewrite(program, bad, lambda _, content: content, {name.partition("/")[2].upper(): b"{}"})
    assert "same name" in refused(bad, proof)


@pytest.mark.parametrize(
    "text",
    [
        "L['x'].size()[0] >= 2",
        "L['args'][0][1].size()[2] % 2 == 0",
        "2 <= L['x'].shape[0] and s0 != 3",
        "(max(1, 1 + (((-3) + L['x'].size()[3]) // 2))) != 1",
    ],
)
def test_guards_are_guards(text: str) -> None:
    assert pt2_scan.is_guard(text)


@pytest.mark.parametrize(
    "text",
    ["L.clear()", "L['x'].__class__", "open('x')", "L['x'].size", "L['x'].size()['a'].tofile('f')", "(lambda: 1)()",
     "__import__('os')", "L['x'].item()", "L()", "s0()", "getattr(L, 's')", ""],
)  # fmt: skip
def test_programs_are_no_guards(text: str) -> None:
    assert not pt2_scan.is_guard(text)


def replace_expressions(tree: Any, code: str) -> int:
    count = 0
    if isinstance(tree, dict):
        for key, value in tree.items():
            if key == "expr_str":
                tree[key] = code
                count += 1
            else:
                count += replace_expressions(value, code)
    elif isinstance(tree, list):
        count = sum(replace_expressions(value, code) for value in tree)
    return count


@pytest.mark.parametrize(
    "text", ["s31", "2*s31 + 1", "Add(Mul(Integer(2), Symbol('s31', integer=True)), Integer(-1))", "s0//2", "Max(1, s77)"]
)
def test_sizes_are_sizes(text: str) -> None:
    assert pt2_scan.is_size(text)


@pytest.mark.parametrize(
    "text",
    ["__import__('os')", "().__class__", "open('x')", "Symbol.mro()", "[x for x in y]", "lambda: 0", "Symbol('a b()')", "exec",
     "eval('1')", "s0.__class__", "f'{s0}'", "(s0 := 1)", "Integer(2", "", "print"],
)  # fmt: skip
def test_programs_are_no_sizes(text: str) -> None:
    assert not pt2_scan.is_size(text)


@given(st.text(max_size=40))
def test_is_size_never_raises(text: str) -> None:
    if pt2_scan.is_size(text):
        assert "__" not in text
        assert "." not in text.replace(".0", "").replace(".5", "") or any(c.isdigit() for c in text)


def test_kinds(tmp_path: Path, program: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "a.pt")
    (tmp_path / "garbage.pt").write_bytes(b"garbage")
    assert torch_files.kind(program) == "pt2"
    assert torch_files.kind(tmp_path / "a.pt") == "torch"
    assert torch_files.kind(tmp_path / "garbage.pt") == "pickle"
    (tmp_path / "empty.pt").touch()
    with pytest.raises(LoadError, match="empty"):
        torch_files.kind(tmp_path / "empty.pt")
    with pytest.raises(LoadError, match="does not exist"):
        torch_files.kind(tmp_path / "absent.pt")


def test_damaged_files(tmp_path: Path, program: Path, proof: Path) -> None:
    torch.save({"a": torch.zeros(100)}, tmp_path / "a.pt")
    for source in (tmp_path / "a.pt", program):
        content = source.read_bytes()
        for keep in (10, len(content) // 2, len(content) - 5):
            cut = tmp_path / f"cut{source.suffix}"
            cut.write_bytes(content[:keep])
            assert "cut" in refused(cut, proof)
