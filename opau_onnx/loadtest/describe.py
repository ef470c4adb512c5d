"""Metadata of the server and the model, before the load; waits until both are ready."""

from __future__ import annotations

import asyncio
import time

from opau_onnx.loadtest.config import LoadTestError
from opau_onnx.loadtest.connection import Client, UnreachableError
from opau_onnx.loadtest.responses import InvalidResponseError, ServedModel, StatusError, tensor_specs

RETRY_S = 0.2
_DENIED = ("HTTP 401", "HTTP 403", "UNAUTHENTICATED", "PERMISSION_DENIED")


class _NotReadyError(LoadTestError):
    """A failure that waiting may mend."""


async def describe(client: Client, url: str, name: str | None, version: str | None, wait_s: float) -> ServedModel:
    """Metadata of a model that is ready.

    Args:
        client: of the server.
        url: for messages.
        name: of the model; None: the only one there is.
        version: of the model; None: the server chooses.
        wait_s: how long to wait for the server and the model.

    Raises:
        LoadTestError: the server cannot be reached, has no such model, or the model is not ready.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            return await _describe(client, url, name, version)
        except _NotReadyError:
            if time.monotonic() >= until:
                raise
        await asyncio.sleep(RETRY_S)


async def _describe(client: Client, url: str, name: str | None, version: str | None) -> ServedModel:
    try:
        server = await client.server()
        name = name or await _only(client, url)
        metadata = await _metadata(client, url, name, version)
        if not await client.ready(name, version):
            raise _NotReadyError(f"the model {name!r} at {url} is not ready")
        inputs, outputs = tensor_specs(metadata.get("inputs")), tensor_specs(metadata.get("outputs"))
        return ServedModel(name, version, inputs, outputs, metadata, server)
    except UnreachableError as error:
        raise _NotReadyError(f"{url} cannot be reached: {error}") from None
    except InvalidResponseError as error:
        raise LoadTestError(f"{url} does not implement the Open Inference Protocol as a load test needs it: {error}") from None
    except StatusError as error:
        if error.status in _DENIED:
            raise LoadTestError(f"{url} requires a bearer token ({error}); give it with --token-file or --token-env") from None
        raise _NotReadyError(f"{url} does not return its metadata: {error}") from None


async def _metadata(client: Client, url: str, name: str, version: str | None) -> dict[str, object]:
    try:
        return dict(await client.describe(name, version))
    except StatusError as error:
        if error.status in _DENIED:
            raise
        try:
            names = [known for known, _ in await client.index()]
        except (StatusError, InvalidResponseError):
            raise LoadTestError(f"{url} returns no metadata of the model {name!r} and no list of models: {error}") from None
        if name in names and version is None:
            raise _NotReadyError(f"the model {name!r} at {url} is not ready: {error}") from None
        if name in names:
            raise LoadTestError(f"{url} returns no metadata of version {version} of {name!r}: {error}") from None
        raise LoadTestError(f"{url} has no model {name!r}; it has {', '.join(names) or 'none'}") from None


async def _only(client: Client, url: str) -> str:
    try:
        models = await client.index()
    except (StatusError, InvalidResponseError) as error:
        raise LoadTestError(f"{url} does not list its models ({error}); name one with --model") from None
    names = list(dict.fromkeys(name for name, _ in models))
    if len(names) != 1:
        raise LoadTestError(f"{url} has {len(names) or 'no'} models; name one with --model: {', '.join(names)}")
    return names[0]
