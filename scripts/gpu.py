"""Try and time the CUDA kernels on a GPU; one command whose files are the evidence.

    python scripts/gpu.py --library build/cuda/libopau_onnx_ops.so [--part kernels] [--part bench] [--output out/gpu]

Needs PyTorch with CUDA and a library with CUDA kernels; no network and nothing else. ``--dry`` runs everything on the CPU with
few cases, its CPU kernels in place of the CUDA ones: it tests the script, and shows nothing about a GPU.
Parts: kernels (bits against the CPU kernels, streams, graphs, sizes beyond 2**31), sanitizer (a few kernels under
compute-sanitizer), bench (ratios to a device copy, torch's own activations), training (bits, sums, graphs, time), networks
(training steps of whole networks), serving (onnxruntime's CUDA provider and opau-serve, where onnxruntime-gpu is).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # on a bare machine the package is not installed

from gpu_checks import bench, device, kernels, networks, page, sanitizer, serving, training

PARTS = {
    "kernels": kernels.run, "sanitizer": sanitizer.run, "bench": bench.run, "training": training.run,
    "networks": networks.run, "serving": serving.run,
}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--library", type=Path, help="the op library with CUDA kernels; default: the package's own")
    parser.add_argument("--part", action="append", choices=sorted(PARTS), help="default: all")
    parser.add_argument("--output", type=Path, default=Path(os.environ.get("OUT", "out/gpu")), help="folder of the result")
    parser.add_argument("--dry", action="store_true", help="on the CPU")
    parser.add_argument("--few", action="store_true", help="few cases: what runs under the sanitizer")
    given = parser.parse_args()
    target = device.Cpu(given.library) if given.dry else device.Gpu(given.library)
    if target.missing is not None:
        print(f"not run: {target.missing}", file=sys.stderr)
        return 1 if os.environ.get("OPAU_REQUIRE_CUDA") == "1" else 2
    record: dict[str, Any] = {"machine": target.describe(), "parts": {}}
    given.output.mkdir(parents=True, exist_ok=True)
    for name in given.part or list(PARTS):
        begin = time.perf_counter()
        found = PARTS[name](target, few=given.few or given.dry)
        record["parts"][name] = {"seconds": round(time.perf_counter() - begin, 1), **found}
        (given.output / "gpu.json").write_text(json.dumps(record, indent=1) + "\n")
        print(f"{name}: {'passed' if found['passed'] else 'FAILED'} in {record['parts'][name]['seconds']} s", flush=True)
    (given.output / "gpu.md").write_text(page.page(record))
    return 0 if all(part["passed"] for part in record["parts"].values()) else 1


if __name__ == "__main__":
    raise SystemExit(main())
