"""Model files that try to run code when they are read. Each payload creates a file, so that a test sees whether it ran."""

from __future__ import annotations

import json
import pickle
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from opau_onnx.nn import HP1

Members = dict[str, bytes]


class Touch:
    """Unpickling it creates a file."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return Path.touch, (self.marker,)


def code(marker: Path) -> str:
    """The same as a Python expression without quotes, spaces and backslashes; true when evaluated."""
    path = "+".join(f"chr({ord(c)})" for c in str(marker))
    return f"(open({path},chr(119)).close()==None)"


class Small(nn.Module):
    """A program with most of what a .pt2 may hold: a branch, a lifted constant, a buffer, a dynamic size, two inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.act, self.linear = HP1(groups=2), nn.Linear(4, 4)
        self.register_buffer("scale", torch.ones(4))

    def forward(self, x: Tensor, t: Tensor) -> dict[str, Tensor]:
        y = torch.cond(x.sum() > 0, lambda v: self.linear(v), lambda v: v * 2, (x,))
        y = self.act(y * self.scale + torch.tensor([1.0, 2.0, 3.0, 4.0]))
        return {"y": y.reshape(y.shape[0] * 4), "t": t + x[:, :2]}


def program(path: Path) -> Path:
    """An honest .pt2."""
    torch.manual_seed(0)
    inputs = (torch.randn(3, 4), torch.randn(3, 2))
    batch = torch.export.Dim("batch")
    exported = torch.export.export(Small().eval(), inputs, dynamic_shapes=({0: batch}, {0: batch}))
    torch.export.save(exported, path)
    return path


def read(path: Path) -> Members:
    """Members of an archive, without the name of its folder."""
    with zipfile.ZipFile(path) as archive:
        return {name.partition("/")[2]: archive.read(name) for name in archive.namelist()}


def write(path: Path, members: Members, first: Members | None = None) -> Path:
    """An archive of these members; ``first`` come before, perhaps with the same names."""
    with zipfile.ZipFile(path, "w") as archive:
        for part in (first or {}, members):
            for name, content in part.items():
                archive.writestr(f"archive/{name}", content)
    return path


MODEL = "models/model.json"
WEIGHTS = "data/weights/model_weights_config.json"
CONSTANTS = "data/constants/model_constants_config.json"
SAMPLE = "data/sample_inputs/model.pt"
Edit = Callable[[Any, Path], None]


def edit_json(member: str, change: Edit) -> Callable[[Members, Path], Members]:
    def attack(members: Members, marker: Path) -> Members:
        tree = json.loads(members[member])
        change(tree, marker)
        return {**members, member: json.dumps(tree).encode()}

    return attack


def zipped(marker: Path) -> bytes:
    """What torch.save writes."""
    import io

    buffer = io.BytesIO()
    torch.save(Touch(marker), buffer)
    return buffer.getvalue()


PICKLES: dict[str, Callable[[Path], bytes]] = {
    "protocol 0": lambda marker: pickle.dumps(Touch(marker), protocol=0),
    "protocol 2": lambda marker: pickle.dumps(Touch(marker), protocol=2),
    "torch.save": zipped,
}


def _pickled_weight(kind: str) -> Callable[[Members, Path], Members]:
    def attack(members: Members, marker: Path) -> Members:
        tree = json.loads(members[WEIGHTS])
        entry = next(iter(tree["config"].values()))
        entry["use_pickle"] = True
        return {
            **members, WEIGHTS: json.dumps(tree).encode(), f"data/weights/{entry['path_name']}": PICKLES[kind](marker)
        }  # fmt: skip

    return attack


def _object(prefix: str) -> Callable[[Members, Path], Members]:
    def attack(members: Members, marker: Path) -> Members:
        tree = json.loads(members[CONSTANTS])
        next(iter(tree["config"].values()))["path_name"] = f"{prefix}_0"
        tree["config"] = dict([next(iter(tree["config"].items()))])
        next(iter(tree["config"].values()))["use_pickle"] = True
        return {
            **members, CONSTANTS: json.dumps(tree).encode(),
            f"data/constants/{prefix}_0": PICKLES["protocol 2"](marker),
        }  # fmt: skip

    return attack


def _rename(tree: Any, old: str, new: str) -> Any:
    """The tree with every text and key ``old`` replaced."""
    if isinstance(tree, dict):
        return {(new if k == old else k): _rename(v, old, new) for k, v in tree.items()}
    if isinstance(tree, list):
        return [_rename(v, old, new) for v in tree]
    return new if tree == old else tree


def _input_name(tree: Any, marker: Path) -> None:
    tree["graph_module"] = _rename(tree["graph_module"], "t", f"t={code(marker)}")


def _argument_name(tree: Any, marker: Path) -> None:
    tree["graph_module"]["module_call_graph"][0]["signature"]["forward_arg_names"][1] = f"t={code(marker)}"


def _parameter_name(tree: Any, marker: Path) -> None:
    for spec in tree["graph_module"]["signature"]["input_specs"]:
        if "buffer" in spec:
            spec["buffer"]["buffer_name"] = f'scale",0)or {code(marker)}or getattr(self,"linear'


def _call(target: str, outputs: list[str], **arguments: Any) -> Edit:
    """Put a call before all others; the marker's path stands for Path."""

    def change(tree: Any, marker: Path) -> None:
        graph = tree["graph_module"]["graph"]
        inputs = [
            {"name": name, "arg": {"as_string": str(marker)} if value is Path else value, "kind": 1}
            for name, value in arguments.items()
        ]
        for name in outputs:
            graph["tensor_values"][name] = graph["tensor_values"]["x"]
        graph["nodes"].insert(0, {
            "target": target, "inputs": inputs, "outputs": [{"as_tensor": {"name": name}} for name in outputs],
            "metadata": {}, "is_hop_single_tensor_return": None, "name": (outputs or ["evil"])[0],
        })  # fmt: skip

    return change


def _keyword(tree: Any, marker: Path) -> None:
    for node in tree["graph_module"]["graph"]["nodes"]:
        if "cond" in node["target"]:
            node["inputs"][-1].update(kind=2, name=f"operands={code(marker)} or lambda*a,**k:0,**dict(),a")


def _graph_name(tree: Any, marker: Path) -> None:
    for node in tree["graph_module"]["graph"]["nodes"]:
        for each in node["inputs"]:
            if "as_graph" in each["arg"]:
                each["arg"]["as_graph"]["name"] = f'x" if {code(marker)} else "x'
                return


def _operand(tree: Any, marker: Path) -> None:
    """A function as an operand of an innocent call."""
    node = tree["graph_module"]["graph"]["nodes"][0]
    node["inputs"][0]["arg"] = {"as_operator": "torch.os.system"}


def _expression(tree: Any, marker: Path) -> None:
    for value in tree["graph_module"]["graph"]["tensor_values"].values():
        for size in value["sizes"]:
            if "as_expr" in size:
                size["as_expr"]["expr_str"] = code(marker)


def _guards(tree: Any, marker: Path) -> None:
    tree["guards_code"] = [code(marker)]


def _guard_key(tree: Any, marker: Path) -> None:
    """The guard becomes part of a message between double quotes."""
    tree["guards_code"] = [f"""1 or L['a")or {code(marker)}or("b']"""]


def _other_model(members: Members, marker: Path) -> Members:
    """A model in a member whose name does not end in .json is read too."""
    evil = edit_json(MODEL, _expression)(members, marker)[MODEL]
    return {**members, "models/model_json": evil}


def _import(tree: Any, marker: Path) -> None:
    """A pytree spec may name an enumeration of any module, which is then imported."""
    signature = tree["graph_module"]["module_call_graph"][0]["signature"]
    spec = json.loads(signature["out_spec"])
    spec[1]["context"] = json.dumps([{"__enum__": True, "fqn": f"{marker.name}:A", "name": "B"}, "t"])
    signature["out_spec"] = json.dumps(spec)
    marker.with_name(f"{marker.name}.py").write_text(f"open({str(marker)!r}, 'w').close()\n")


ATTACKS: dict[str, Callable[[Members, Path], Members]] = {
    **{f"sample inputs, {k}": lambda m, p, k=k: {**m, SAMPLE: PICKLES[k](p)} for k in PICKLES},
    **{f"weight flagged use_pickle, {k}": _pickled_weight(k) for k in PICKLES},
    **{f"legacy weights, {k}": lambda m, p, k=k: {**m, "data/weights/model.pt": PICKLES[k](p)} for k in PICKLES},
    **{f"legacy constants, {k}": lambda m, p, k=k: {**m, "data/constants/model.pt": PICKLES[k](p)} for k in PICKLES},
    "opaque object": _object("opaque_obj"),
    "size expression": edit_json(MODEL, _expression),
    "guard": edit_json(MODEL, _guards),
    "key in a guard": edit_json(MODEL, _guard_key),
    "member with another ending": _other_model,
    "name of an input": edit_json(MODEL, _input_name),
    "name of an argument": edit_json(MODEL, _argument_name),
    "name of a buffer": edit_json(MODEL, _parameter_name),
    "name of a keyword": edit_json(MODEL, _keyword),
    "name of a branch": edit_json(MODEL, _graph_name),
    "call of any function of Python": edit_json(MODEL, _call("torch.os.mkdir", ["evil"], name=Path)),
    "call that makes a file": edit_json(
        MODEL,
        _call(
            "torch.ops.aten.from_file.default",
            ["evil"],
            filename=Path,
            shared={"as_bool": True},
            size={"as_int": 4},
        ),
    ),
    "call that saves a file": edit_json(
        MODEL,
        _call(
            "torch.ops.aten.save.default",
            [],
            item={"as_tensor": {"name": "x"}},
            filename=Path,
        ),
    ),
    "module to import": edit_json(MODEL, _import),
}
"""What a .pt2 can be made to do, by a change of its members; every one of these runs where nothing is checked."""

STOPPED_BY_TORCH = {
    "name of an argument", "name of a buffer", "name of a keyword", "name of a branch", "call of any function of Python",
    "call that saves a file",
}  # fmt: skip
"""Of these, those that torch 2.13 happens to stop by itself, late; they are refused all the same."""


def two_directories(good: bytes, evil: bytes) -> bytes:
    """An archive that is ``good`` to Python's zipfile and ``evil`` to torch: they find its directory at different places."""
    evil_body, evil_directory, count = _parts(evil)
    good_body, good_directory, _ = _parts(good)
    assert len(evil_directory) == len(good_directory)
    # Python takes the directory right before the end and adds to its offsets what the end's own offset is off by.
    moved = _moved(good_directory, len(evil_body) - len(evil_directory))
    offset = len(evil_body) + len(good_body)
    end = b"PK\x05\x06" + struct.pack("<HHHHIIH", 0, 0, count, count, len(evil_directory), offset, 0)
    return evil_body + good_body + evil_directory + moved + end


def _parts(archive: bytes) -> tuple[bytes, bytes, int]:
    """Members, directory and number of members."""
    end = archive.rindex(b"PK\x05\x06")
    count, size, offset = struct.unpack("<HII", archive[end + 10 : end + 20])
    return archive[:offset], archive[offset : offset + size], count


def _moved(directory: bytes, by: int) -> bytes:
    out, at = bytearray(directory), 0
    while at < len(out):
        struct.pack_into("<I", out, at + 42, struct.unpack_from("<I", out, at + 42)[0] + by)
        at += 46 + sum(struct.unpack_from("<HHH", out, at + 28))
    return bytes(out)
