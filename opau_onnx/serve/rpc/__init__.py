"""The Open Inference Protocol over gRPC: grpc.aio with the protocol's published messages."""

from opau_onnx.serve.rpc.server import RpcServer, start

__all__ = ["RpcServer", "start"]
