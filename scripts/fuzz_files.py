"""Flip bytes of a model file and give it to every command, which must end with exit code 0, 1 or 2 and words.

    python scripts/fuzz_files.py --flips 500            # every command
    python scripts/fuzz_files.py --commands collapse,verify --flips 50 --seed 7

Each run is a process of its own, forked from this one once the packages are imported, so that it takes a second instead of six.
Prints a line for each fault (a traceback, another exit code, a signal, a run that does not end), and keeps its file.
"""

from __future__ import annotations

import argparse
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

LIMIT_S = 180
UNEXPECTED = "this should not happen"
COMMANDS: dict[str, tuple[str, list[str]]] = {
    "verify": ("verify", ["{source}", "{file}"]),
    "verify-layerwise": ("verify", ["{source}", "{file}", "--layerwise", "--runtimes", "ort-function"]),
    "collapse": ("collapse", ["{file}", "{out}/c.onnx"]),
    "collapse-fused": ("collapse", ["{file}", "{out}/c.onnx", "--form", "fused"]),
    "collapse-lut": ("collapse", ["{file}", "{out}/c.onnx", "--form", "lut", "--quantize", "--data", "{data}"]),
    "certify": ("certify", ["{file}", "--quick", "--dtypes", "float16"]),
    "plot": ("plot", ["{file}", "{out}/p.png"]),
    "deploy-triton": ("deploy", ["triton", "{file}", "{out}/triton"]),
    "export": ("export", ["{program}", "{out}/e.onnx"]),
}
"""Name -> command and its arguments. "export" reads a .pt2, the others ONNX files."""


def make_sources(folder: Path) -> dict[str, Path]:
    """A small network with two activations: as a .pt2, exported, and samples for it."""
    import numpy as np
    import torch
    from torch import nn

    from opau_onnx import export_model
    from opau_onnx.nn import HP1, HP2

    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(4, 8), HP1(), nn.BatchNorm1d(8), HP2(groups=2, axis=1), nn.Linear(8, 2)).eval()
    example = torch.randn(3, 4)
    program, file, data = folder / "net.pt2", folder / "net.onnx", folder / "data.npz"
    torch.export.save(torch.export.export(net, (example,), dynamic_shapes=({0: torch.export.Dim("batch")},)), program)
    export_model(net, file, example, validate=False)
    name = next(iter(__import__("onnx").load(file).graph.input)).name
    np.savez(data, allow_pickle=False, **{name: np.random.default_rng(0).standard_normal((32, 4)).astype(np.float32)})
    return {"program": program, "source": program, "file": file, "data": data}


def flipped(content: bytes, rng: random.Random) -> bytes:
    """One to three bytes changed: a bit, any value, or one that text and lengths are made of."""
    out = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 3))):
        at = rng.randrange(len(out))
        out[at] = rng.choice((out[at] ^ 1 << rng.randrange(8), rng.randrange(256), rng.choice(b"\x00\xff/.0a")))
    return bytes(out)


def run(main: Callable[[], None], arguments: list[str], log: Path, limit_s: float = LIMIT_S) -> str | None:
    """What is wrong with how a command ended, in a process of its own; None where nothing is."""
    child = os.fork()
    if child == 0:
        _in_child(main, arguments, log)
    end = time.monotonic() + limit_s
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            os.waitpid(child, 0)
            return f"did not end within {limit_s:g} s"
        time.sleep(0.01)
    text = log.read_text(errors="replace")
    if os.WIFSIGNALED(status):
        return f"ended by signal {os.WTERMSIG(status)}"
    if "Traceback (most recent call last)" in text:
        return "a traceback"
    if os.WEXITSTATUS(status) not in (0, 1, 2):
        return f"exit code {os.WEXITSTATUS(status)}"
    return UNEXPECTED if UNEXPECTED in text else None


def _in_child(main: Callable[[], None], arguments: list[str], log: Path) -> None:
    code = 70
    try:
        to = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(to, 1)
        os.dup2(to, 2)
        sys.stdout, sys.stderr = (os.fdopen(n, "w", closefd=False) for n in (1, 2))
        sys.argv = arguments
        try:
            main()
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 0 if end.code is None else 1
        except BaseException:
            import traceback

            traceback.print_exc()
        sys.stdout.flush()
        sys.stderr.flush()
    finally:
        os._exit(code)


def fuzz(name: str, sources: dict[str, Path], flips: int, seed: int, kept: Path) -> tuple[Counter[str], list[str]]:
    """(how often each kind of ending came, a line for each fault)."""
    import importlib

    command, template = COMMANDS[name]
    main = importlib.import_module(f"opau_onnx.cli.{command}").main
    place = "program" if "{program}" in template else "file"
    whole, rng = sources[place].read_bytes(), random.Random(f"{name} {seed}")
    endings: Counter[str] = Counter()
    faults = []
    for i in range(flips):
        with tempfile.TemporaryDirectory() as folder:
            broken = Path(folder) / sources[place].name
            broken.write_bytes(flipped(whole, rng))
            values = {**{k: str(v) for k, v in sources.items()}, place: str(broken), "out": folder}
            log = Path(folder) / "log.txt"
            wrong = run(main, [f"opau-{command}", *(part.format(**values) for part in template)], log)
            endings[wrong or "good"] += 1
            if wrong:
                to = kept / f"{name}-{seed}-{i}{broken.suffix}"
                shutil.copy(broken, to)
                lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
                faults.append(f"{name}: {wrong}; {to}: {lines[-1][:200] if lines else ''}")
    return endings, faults


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--flips", type=int, default=500)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--commands", default=",".join(COMMANDS))
    parser.add_argument("--kept", type=Path, default=Path("out/fuzz"), help="folder for the files of faults")
    chosen = parser.parse_args()
    chosen.kept.mkdir(parents=True, exist_ok=True)
    bad = 0
    with tempfile.TemporaryDirectory() as folder:
        # Made in a process of its own: threads of onnxruntime do not survive a fork.
        sources = _made_apart(Path(folder))
        import opau_onnx.collapse.api
        import opau_onnx.plot.api
        import opau_onnx.verify.api  # noqa: F401

        for name in chosen.commands.split(","):
            endings, faults = fuzz(name, sources, chosen.flips, chosen.seed, chosen.kept)
            print(f"{name}: {dict(endings)}", *faults, sep="\n  ", flush=True)
            bad += len(faults)
    print(f"{bad} faults")
    return int(bad > 0)


def _made_apart(folder: Path) -> dict[str, Path]:
    child = os.fork()
    if child == 0:
        try:
            make_sources(folder)
        finally:
            os._exit(0)
    os.waitpid(child, 0)
    program, data = folder / "net.pt2", folder / "data.npz"
    return {"program": program, "source": program, "file": folder / "net.onnx", "data": data}


if __name__ == "__main__":
    sys.exit(main())
