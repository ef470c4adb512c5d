"""Memory of opau-serve while clients send many large requests over gRPC at the same time.

Prints the server's resident memory before, at its peak and after, how the large requests ended, and what became of four clients
with small ones. Linux only.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any

import grpc
import onnx
import typer
from onnx import TensorProto, helper
from tritonclient.grpc import service_pb2 as pb

INFER = "/inference.GRPCInferenceService/ModelInfer"
PORT = 18001


def write(path: Path) -> Path:
    """A model that gives the mean of each row, of any length."""
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, ["rows", "n"]) for name in "xy")
    graph = helper.make_graph([helper.make_node("ReduceMean", ["x"], ["y"], axes=[1])], "mean", [x], [y])
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9), path)
    return path


def request(values: int) -> bytes:
    """A request with one row of so many zeros."""
    made: Any = pb.ModelInferRequest(model_name="mean", raw_input_contents=[bytes(4 * values)])
    made.inputs.add(name="x", datatype="FP32", shape=[1, values])
    return bytes(made.SerializeToString())


def attack(calls: int, connections: int, rounds: int, size: int) -> Counter[str]:
    """How the large requests ended."""
    large, ended = request(size // 4), Counter[str]()
    options = [("grpc.max_send_message_length", -1), ("grpc.use_local_subchannel_pool", 1)]
    channels = [grpc.insecure_channel(f"127.0.0.1:{PORT}", options=options) for _ in range(connections)]
    for _ in range(rounds):
        found = [channels[i % connections].unary_unary(INFER).future(large, timeout=60) for i in range(calls)]
        ended.update(one.code().name for one in found)
    return ended


def wait(ask: Callable[..., object]) -> None:
    """Until the server answers."""
    for _ in range(600):
        try:
            ask(request(4), timeout=5)
            return
        except grpc.RpcError:
            time.sleep(0.1)
    raise SystemExit("opau-serve does not answer")


def resident(pid: int) -> float:
    """Of a process, in MiB."""
    return int(Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


def main(
    calls: Annotated[int, typer.Option(help="At the same time.")] = 80,
    connections: Annotated[int, typer.Option(help="Over which they go.")] = 80,
    rounds: int = 3,
    size: Annotated[int, typer.Option(help="Bytes of a request's tensor.")] = 60_000_000,
    client: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Measure opau-serve with its default limits."""
    if client:  # a process of its own, so that only the server's memory is measured
        print(dict(attack(calls, connections, rounds, size)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = write(Path(folder) / "mean.onnx")
        command = [sys.executable, "-m", "opau_onnx.cli.serve", str(path), "--http-port", "-1", "--grpc-port", str(PORT)]
        server = subprocess.Popen([*command, "--log-level", "error"])
        ask = grpc.insecure_channel(f"127.0.0.1:{PORT}").unary_unary(INFER)
        wait(ask)
        before, small, done, sizes = resident(server.pid), Counter[str](), threading.Event(), [0.0]

        def good() -> None:
            while not done.wait(0.005):
                try:
                    ask(request(4), timeout=30)
                    small["OK"] += 1
                except grpc.RpcError as error:
                    small[error.code().name] += 1

        def watch() -> None:
            while not done.wait(0.01):
                sizes.append(resident(server.pid))

        threads = [threading.Thread(target=one) for one in (watch, *[good] * 4)]
        for thread in threads:
            thread.start()
        subprocess.run([sys.executable, __file__, *sys.argv[1:], "--client"], check=True)
        done.set()
        for thread in threads:
            thread.join()
        time.sleep(1.0)
        after = resident(server.pid)
        print(f"MiB before {before:.0f}, peak {max(sizes):.0f}, after {after:.0f}; small requests: {dict(small)}")
        server.send_signal(signal.SIGTERM)
        server.wait(60)


if __name__ == "__main__":
    typer.run(main)
