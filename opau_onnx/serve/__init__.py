"""A server of ONNX files by the Open Inference Protocol (KServe V2), over HTTP and gRPC, with dynamic batching.

Data flows from a protocol (:mod:`http <opau_onnx.serve.http>`, :mod:`grpc <opau_onnx.serve.rpc>`) through
:class:`~opau_onnx.serve.service.Service` and the queue of a model to its onnxruntime sessions, and back.
"""

__all__: list[str] = []
