"""onnxruntime-node: the file in JavaScript, in a process of its own that keeps the session open."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

from opau_onnx.compare.arrays import to_numpy
from opau_onnx.compare.runtime import Model, NotRunError, VerifiedRuntime

PACKAGE = "onnxruntime-node"
SCRIPT = "node_runtime.js"
_TYPES = {
    "float32": "float32", "float64": "float64", "float16": "float16", "int64": "int64", "int32": "int32", "uint8": "uint8",
    "bool": "bool",
}  # fmt: skip
"""numpy's name -> that of onnxruntime's JavaScript interface."""


class Node(VerifiedRuntime):
    """onnxruntime-node on the CPU, without our library: function bodies."""

    name = "node"

    @classmethod
    def unavailable(cls) -> str | None:
        """See :meth:`VerifiedRuntime.unavailable`."""
        if shutil.which("node") is None:
            return "node is not installed"
        if find_package() is None:
            return f"the npm package {PACKAGE} is not in NODE_PATH, ./node_modules or npm's global folder"
        return None

    def __init__(self, model: Model, *, part: bool = False) -> None:
        self.folder = tempfile.TemporaryDirectory(prefix="opau-verify-node-")
        self.process: subprocess.Popen[str] | None = None
        try:
            self._start(model)
        except BaseException:
            self.close()
            raise

    def _start(self, model: Model) -> None:
        package, node = find_package(), shutil.which("node")
        if package is None or node is None:
            raise NotRunError(str(self.unavailable()))
        place = Path(self.folder.name)
        if isinstance(model, bytes):
            (place / "model.onnx").write_bytes(model)
            model = place / "model.onnx"
        script = place / SCRIPT
        script.write_text(
            (resources.files("opau_onnx.compare.runtimes") / SCRIPT).read_text(encoding="utf-8"), encoding="utf-8"
        )
        self.errors = (place / "errors").open("w+")
        self.process = subprocess.Popen(
            [node, str(script), str(package), str(model.resolve())], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self.errors, text=True, encoding="utf-8",
        )  # fmt: skip
        hello = self._answer("load")
        self.names = [str(name) for name in hello["inputs"]]
        ours = onnx.load(model, load_external_data=False).functions
        self.version, self.provider = f"{PACKAGE} {hello['version']} on node {hello['node']}", "cpu"
        self.implementation = "function bodies (no library registered)" if ours else "onnxruntime's own operators"
        self.description = f"{self.version}, {self.provider}, {self.implementation}"

    def run(self, inputs: Sequence[torch.Tensor]) -> list[Any]:
        """See :meth:`Runtime.run`."""
        assert self.process is not None
        assert self.process.stdin is not None
        place, sent = Path(self.folder.name), []
        for i, (name, x) in enumerate(zip(self.names, inputs, strict=True)):
            array = np.ascontiguousarray(to_numpy(x)).reshape(tuple(x.shape))
            if array.dtype.name not in _TYPES:
                raise NotRunError(f"{PACKAGE} has no tensors of {array.dtype.name}")
            array.tofile(place / f"in_{i}")
            file = str(place / f"in_{i}")
            sent.append({"name": name, "type": _TYPES[array.dtype.name], "dims": list(array.shape), "file": file})
        try:
            self.process.stdin.write(json.dumps({"inputs": sent, "folder": str(place)}) + "\n")
            self.process.stdin.flush()
        except OSError:  # the process has ended; its answer says why
            pass
        return [_read(output) for output in self._answer("run")["outputs"]]

    def _answer(self, what: str) -> dict[str, Any]:
        assert self.process is not None
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            text = " ".join(self.errors.read().split())[-400:]
            raise NotRunError(f"{PACKAGE} cannot {what} the file: node ended, {text or 'without a word'}")
        answer: dict[str, Any] = json.loads(line)
        if "error" in answer:
            raise NotRunError(f"{PACKAGE} cannot {what} the file: {answer['error']}")
        return answer

    def close(self) -> None:
        """See :meth:`VerifiedRuntime.close`."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            for stream in (self.process.stdin, self.process.stdout):
                if stream is not None:
                    stream.close()
            self.errors.close()
            self.process = None
        self.folder.cleanup()


def _read(output: dict[str, Any]) -> Any:
    kind = {v: k for k, v in _TYPES.items()}.get(output["type"])
    if kind is None:
        raise NotRunError(f"{PACKAGE} gave a tensor of {output['type']}, which this comparison does not read")
    return np.fromfile(output["file"], dtype=kind).reshape(output["dims"])


def find_package() -> Path | None:
    """The folder of the npm package: in NODE_PATH, ./node_modules, or where npm installs globally."""
    places = [Path(part) for part in os.environ.get("NODE_PATH", "").split(os.pathsep) if part]
    places.append(Path.cwd() / "node_modules")
    for place in (*places, *_global_folder()):
        if (place / PACKAGE / "package.json").is_file():
            return (place / PACKAGE).resolve()
    return None


@lru_cache(maxsize=1)
def _global_folder() -> tuple[Path, ...]:
    npm = shutil.which("npm")
    if npm is None:
        return ()
    try:
        done = subprocess.run([npm, "root", "-g"], capture_output=True, text=True, timeout=20, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return (Path(done.stdout.strip()),) if done.returncode == 0 and done.stdout.strip() else ()
