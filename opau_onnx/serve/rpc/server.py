"""The gRPC server: where it listens, its limits, and how it ends."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import grpc.aio

from opau_onnx.errors import LoadError
from opau_onnx.serve import security, tls
from opau_onnx.serve.config import ServerSettings
from opau_onnx.serve.rpc.control import Control
from opau_onnx.serve.rpc.gate import Gate
from opau_onnx.serve.rpc.health import Health
from opau_onnx.serve.rpc.infer import Infer
from opau_onnx.serve.rpc.methods import SERVICE, Methods
from opau_onnx.serve.rpc.reception import Reception
from opau_onnx.serve.service import Service
from opau_onnx.serve.sockets import check_free, connections

if TYPE_CHECKING:
    from opau_onnx.serve.tracing import Tracer

KEEPALIVE_MS = 60_000
"""Without a sign of life, after which a client is asked for one; it has 20 seconds to answer."""
PING_MS = 5_000
"""Between two such questions of a client, at least; by default gRPC ends connections that ask more than every 5 minutes."""
HANDSHAKE_MS = 10_000
"""For a connection until it speaks HTTP/2; gRPC's own is two minutes."""
METADATA_BYTES = 32 * 1024
"""Of a call's headers."""
UNREAD_BYTES = 64 * 1024
"""Of a call that gRPC receives before it is read."""
TELL_SECONDS = 0.1
"""In which clients hear that their connections end; what they call then goes elsewhere."""
STOP_SECONDS = 0.5
"""For calls that are still on their way then."""


@dataclass(frozen=True)
class RpcServer:
    """A gRPC server that runs.

    Attributes:
        port: where it listens.
    """

    port: int
    _server: Any
    _gate: Gate
    _infer: Infer

    async def stop(self, grace: float) -> None:
        """Refuse new calls with UNAVAILABLE, and end once those that were accepted have ended.

        Args:
            grace: seconds after which they are cancelled.
        """
        self._gate.close()
        self._infer.end_streams()
        await self._gate.emptied(grace)
        stopping = asyncio.create_task(self._server.stop(None if self._gate.active else STOP_SECONDS))
        await asyncio.sleep(TELL_SECONDS)
        self._gate.release()
        await stopping


async def start(
    service: Service, settings: ServerSettings, files: tls.Files | None = None, tracer: Tracer | None = None
) -> RpcServer:
    """Start to listen, in the running event loop.

    Args:
        service: what is served.
        settings: of the server.
        files: of TLS; None: none.
        tracer: records traces; None: there are none.

    Raises:
        LoadError: the address cannot be listened on, or a file of the token cannot be used.
    """
    gate = Gate()
    infer = Infer(service, gate, tracer, Reception(service))
    server = grpc.aio.server(options=options(settings))
    health = Health(service, SERVICE.full_name)
    server.add_generic_rpc_handlers([Methods(gate, infer, Control(service), security.Access(settings), health)])
    port = _listen(server, settings, files)
    await server.start()
    return RpcServer(port, server, gate, infer)


def options(settings: ServerSettings) -> list[tuple[str, int]]:
    """The server's options, by gRPC's names."""
    return [
        ("grpc.max_receive_message_length", settings.max_request_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.so_reuseport", 0),  # a second server on this port would get a part of the requests
        # Clients that vanished without a word are found out, and those that ask whether the server is there may do so.
        ("grpc.keepalive_time_ms", KEEPALIVE_MS),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.server_handshake_timeout_ms", HANDSHAKE_MS),
        ("grpc.max_allowed_incoming_connections", connections(settings.max_connections)),
        # A call that is not read yet holds no more than this, however fast its connection is; while it is read, all may come.
        ("grpc.http2.bdp_probe", 0),
        ("grpc.http2.lookahead_bytes", UNREAD_BYTES),
        ("grpc.max_metadata_size", METADATA_BYTES),
        ("grpc.absolute_max_metadata_size", METADATA_BYTES),
        ("grpc.http2.min_ping_interval_without_data_ms", PING_MS),
    ]


def _listen(server: Any, settings: ServerSettings, files: tls.Files | None) -> int:
    host, port = settings.host, settings.grpc_port
    check_free(host, port, "--grpc-port")
    address = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        if files is None:
            return int(server.add_insecure_port(address))
        return int(server.add_secure_port(address, files.grpc()))
    except RuntimeError as error:
        raise LoadError(f"gRPC cannot listen on {address}: {error}") from None
