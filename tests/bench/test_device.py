"""The device that is asked for, in a process of its own: onnxruntime's pool of threads is made once."""

from __future__ import annotations

import subprocess
import sys

SCRIPT = """
import torch
from opau_onnx.bench import run as bench, sessions, subjects

sessions.PROVIDERS["cuda"] = "CPUExecutionProvider"  # a stand-in: what matters is when the first session is made
torch.cuda.is_available = lambda: True
torch.cuda.get_device_name = lambda: "a stand-in"
seen = []
bench._dtype = lambda settings, dtype, device, progress: seen.append(device) or ([], {})
bench.run(bench.Settings(sizes=(8,), dtypes=("float32",), batches=(), device=%r))
print(seen)
"""


def test_cuda_is_found_before_the_first_measurement() -> None:
    """onnxruntime refuses sessions on the shared pool that are made before it: "cuda" was refused on every GPU."""
    for device in ("cuda", "auto"):
        done = subprocess.run([sys.executable, "-c", SCRIPT % device], capture_output=True, text=True, check=False)
        assert done.stdout.strip() == "['cuda']", done.stderr[-2000:]
