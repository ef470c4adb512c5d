"""Small servers of one model, with faults on demand. They share no code with the load test."""

from __future__ import annotations

import asyncio
import json
import ssl
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any

import grpc
import numpy as np
from tritonclient.grpc import model_config_pb2, service_pb2, service_pb2_grpc

METADATA: dict[str, Any] = {
    "name": "twice", "versions": ["1"], "platform": "fake",
    "inputs": [{"name": "x", "datatype": "FP32", "shape": [-1, 4]}],
    "outputs": [{"name": "y", "datatype": "FP32", "shape": [-1, 4]}, {"name": "top", "datatype": "INT64", "shape": [-1]}],
}  # fmt: skip
PARAMETERS = {"provider": "FakeProvider", "implementation": "kernel"}
SERVER = {"name": "fake", "version": "0", "extensions": ["binary_tensor_data"]}


def model(x: Any) -> dict[str, Any]:
    """What the fake model computes: (N, 4) -> (N, 4), (N,)."""
    return {"y": 2 * x + 1, "top": x.argmax(1)}


def spoiled(act: str, outputs: dict[str, Any]) -> dict[str, Any]:
    """Wrong outputs in several ways."""
    y = outputs["y"].copy()
    if act == "wrong":
        y[-1, 2] += 0.5
    elif act == "nan":
        y[0, 0] = np.nan
    elif act == "rounded":  # no fault
        y = np.nextafter(y, np.float32(np.inf))
    elif act == "cut":
        y = y[:, :3]
    return {**outputs, "y": y}


Act = Callable[[int], str]


class FakeHttp:
    """A server over HTTP.

    Attributes:
        act: what the n-th inference request gets, n from 0.
        seen: inference requests so far.
        ready, known, lists: whether the model is ready, the server has it, and it lists its models.
        token: that is asked for.
    """

    def __init__(self, act: Act = lambda n: "correct", *, prefix: str = "", token: str | None = None) -> None:
        self.act, self.prefix, self.token = act, prefix, token
        self.seen, self.ready, self.known, self.lists = 0, True, True, True
        self.port = 0
        self._earlier: dict[int, dict[str, Any]] = {}

    @asynccontextmanager
    async def running(self, context: ssl.SSLContext | None = None) -> AsyncIterator[FakeHttp]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", self.port, ssl=context)
        self.port = server.sockets[0].getsockname()[1]
        self._tasks: set[Any] = set()
        try:
            yield self
        finally:
            server.close()
            for task in self._tasks:
                task.cancel()
            await asyncio.gather(*self._tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}{self.prefix}"

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._tasks.add(asyncio.current_task())
        try:
            while await self._one(reader, writer):
                pass
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            writer.close()
            self._tasks.discard(asyncio.current_task())

    async def _one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """InferResponse one request; False: the connection ends."""
        first, *lines = (await reader.readuntil(b"\r\n\r\n")).decode().strip().split("\r\n")
        headers = {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}
        body = await reader.readexactly(int(headers.get("content-length", 0)))
        method, path, _ = first.split()
        if self.token is not None and headers.get("authorization") != f"Bearer {self.token}":
            reply(writer, 401, json.dumps({"error": "no token"}).encode())
        elif path.endswith("/infer"):
            assert path == f"{self.prefix}/v2/models/twice/infer"
            number, self.seen = self.seen, self.seen + 1
            return await self._infer(self.act(number), headers, body, writer)
        else:
            reply(writer, *self._describe(method, path.removeprefix(self.prefix)))
        await writer.drain()
        return True

    def _describe(self, method: str, path: str) -> tuple[int, bytes]:
        found: Any = {
            ("GET", "/v2"): SERVER,
            ("POST", "/v2/repository/index"): [{"name": "twice", "state": "READY"}] if self.lists else None,
            ("GET", "/v2/models/twice"): {**METADATA, "parameters": PARAMETERS} if self.known else None,
            ("GET", "/v2/models/twice/ready"): {} if self.ready else None,
        }.get((method, path))
        return (200, json.dumps(found).encode()) if found is not None else (404, b'{"error": "not here"}')

    async def _infer(self, act: str, headers: dict[str, str], body: bytes, writer: asyncio.StreamWriter) -> bool:
        size = int(headers["inference-header-content-length"])
        request = json.loads(body[:size])
        (x,) = request["inputs"]
        assert x["parameters"]["binary_data_size"] == len(body) - size
        assert all(output["parameters"]["binary_data"] for output in request["outputs"])
        outputs = spoiled(act, model(np.frombuffer(body[size:], "<f4").reshape(x["shape"])))
        if act == "swapped" and (earlier := self._earlier.get(x["shape"][0])):
            outputs = earlier
        self._earlier[x["shape"][0]] = outputs
        if act == "late":
            await asyncio.sleep(0.2)
        elif act == "never":
            await asyncio.sleep(1000)
        elif act == "close":
            return False
        elif act == "reset":
            writer.transport.abort()
            return False
        return self._answer(act, request, outputs, writer)

    def _answer(self, act: str, request: Any, outputs: dict[str, Any], writer: asyncio.StreamWriter) -> bool:
        if act == "missing":
            del outputs["top"]
        elif act == "other id":
            request = {**request, "id": "somebody else's"}
        size, whole = answer(request, outputs, binary=act != "json")
        extra = {"Inference-Header-Content-Length": str(size)} if act != "json" else {}
        if act == "half":
            writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(whole) + whole[:20])
        elif act == "eof":
            writer.write(b"HTTP/1.0 200 OK\r\nInference-Header-Content-Length: %d\r\n\r\n" % size + whole)
        elif act == "garbage":
            writer.write(b"what?\r\n\r\n")
        elif act == "last":
            reply(writer, 200, whole, {**extra, "Connection": "close"})
        elif act == "continue":
            writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            reply(writer, 200, whole, extra)
        elif act == "error in 200":
            reply(writer, 200, b'{"error": "it failed all the same"}')
        elif act.isdigit():
            reply(writer, int(act), json.dumps({"error": f"you get {act}"}).encode())
        else:
            reply(writer, 200, whole, extra, chunked=act == "chunked")
        return act not in ("half", "eof", "last")


def answer(request: Any, outputs: dict[str, Any], *, binary: bool = True) -> tuple[int, bytes]:
    """(Length of the JSON, the body) of an inference response."""
    described, behind = [], b""
    for name, array in outputs.items():
        one = {"name": name, "datatype": "INT64" if name == "top" else "FP32", "shape": list(array.shape)}
        if binary:
            behind += array.tobytes()
            described.append({**one, "parameters": {"binary_data_size": array.nbytes}})
        else:
            described.append({**one, "data": array.ravel().tolist()})
    text = json.dumps({"model_name": "twice", "id": request["id"], "outputs": described}).encode()
    return len(text), text + behind


def reply(
    writer: asyncio.StreamWriter, status: int, body: bytes, extra: dict[str, str] | None = None, *, chunked: bool = False
) -> None:
    headers = {**(extra or {}), **({"Transfer-Encoding": "chunked"} if chunked else {"Content-Length": str(len(body))})}
    head = f"HTTP/1.1 {status} Whatever\r\n" + "".join(f"{k}: {v}\r\n" for k, v in headers.items()) + "\r\n"
    if chunked:
        parts = [body[i : i + 50] for i in range(0, len(body), 50)]
        body = b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"
    writer.write(head.encode() + body)


class FakeGrpc(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """A server over gRPC; attributes as :class:`FakeHttp` has them."""

    def __init__(self, act: Act = lambda n: "correct", *, token: str | None = None) -> None:
        self.act, self.token, self.seen, self.port = act, token, 0, 0
        self.ready = self.known = self.lists = True

    @asynccontextmanager
    async def running(self, credentials: Any = None) -> AsyncIterator[FakeGrpc]:
        self.server = grpc.aio.server(options=[("grpc.so_reuseport", 0)])
        service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(self, self.server)
        if credentials is None:
            self.port = self.server.add_insecure_port(f"127.0.0.1:{self.port}")
        else:
            self.port = self.server.add_secure_port(f"127.0.0.1:{self.port}", credentials)
        await self.server.start()
        try:
            yield self
        finally:
            await self.server.stop(None)

    @property
    def url(self) -> str:
        return f"grpc://127.0.0.1:{self.port}"

    async def _let_in(self, context: Any) -> None:
        if self.token is not None and ("authorization", f"Bearer {self.token}") not in context.invocation_metadata():
            await context.abort(grpc.StatusCode.UNAUTHENTICATED, "no token")

    async def ServerMetadata(self, request: Any, context: Any) -> Any:
        await self._let_in(context)
        return service_pb2.ServerMetadataResponse(**SERVER)

    async def ModelMetadata(self, request: Any, context: Any) -> Any:
        if request.name != "twice" or not self.known:
            await context.abort(grpc.StatusCode.NOT_FOUND, "not here")
        return service_pb2.ModelMetadataResponse(**METADATA)

    async def ModelConfig(self, request: Any, context: Any) -> Any:
        if not self.lists:
            await context.abort(grpc.StatusCode.UNIMPLEMENTED, "no such thing")
        config = model_config_pb2.ModelConfig(name="twice")
        for key, value in PARAMETERS.items():
            config.parameters[key].string_value = value
        return service_pb2.ModelConfigResponse(config=config)

    async def ModelReady(self, request: Any, context: Any) -> Any:
        return service_pb2.ModelReadyResponse(ready=self.ready)

    async def RepositoryIndex(self, request: Any, context: Any) -> Any:
        index = service_pb2.RepositoryIndexResponse.ModelIndex
        return service_pb2.RepositoryIndexResponse(models=[index(name="twice", state="READY")])

    async def ModelInfer(self, request: Any, context: Any) -> Any:
        act = self.act(self.seen)
        self.seen += 1
        (x,) = request.inputs
        outputs = spoiled(act, model(np.frombuffer(request.raw_input_contents[0], "<f4").reshape(x.shape)))
        if act == "late":
            await asyncio.sleep(0.2)
        elif act == "never":
            await asyncio.sleep(1000)
        elif act in grpc.StatusCode.__members__:
            await context.abort(grpc.StatusCode[act], f"you get {act}")
        elif act == "missing":
            del outputs["top"]
        response = service_pb2.ModelInferResponse(model_name="twice", id="somebody else's" if act == "other id" else request.id)
        for name, array in outputs.items():
            one = response.outputs.add(name=name, datatype="INT64" if name == "top" else "FP32", shape=array.shape)
            if act == "numbers":
                contents = one.contents.int64_contents if name == "top" else one.contents.fp32_contents
                contents.extend(array.ravel().tolist())
            else:
                response.raw_output_contents.append(array.tobytes())
        return response


@contextmanager
def threaded(fake: Any) -> Iterator[Any]:
    """A fake that runs beside the test, for commands that bring their own event loop."""
    started, loop = threading.Event(), asyncio.new_event_loop()

    async def serve() -> None:
        async with fake.running():
            fake.ended = asyncio.Event()
            started.set()
            await fake.ended.wait()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()))
    thread.start()
    try:
        assert started.wait(30)
        yield fake
    finally:
        loop.call_soon_threadsafe(fake.ended.set)
        thread.join()
        loop.close()


class Proxy:
    """Passes bytes on to a port, until it cuts all connections."""

    def __init__(self, port: int) -> None:
        self._target, self._writers = port, []

    @asynccontextmanager
    async def running(self) -> AsyncIterator[int]:
        server = await asyncio.start_server(self._pass, "127.0.0.1", 0)
        try:
            yield server.sockets[0].getsockname()[1]
        finally:
            server.close()
            self.cut()

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, far_writer]
        await asyncio.gather(self._copy(reader, far_writer), self._copy(far_reader, writer))

    async def _copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()
