"""Before the load: is the server there, what is the model, is it ready?"""

from __future__ import annotations

import asyncio
import time

from opau_onnx.loadtest.answers import BadAnswerError, Model, StatusError, tensor_specs
from opau_onnx.loadtest.connection import Client, UnreachableError
from opau_onnx.loadtest.settings import LoadTestError

AGAIN_S = 0.2
_DENIED = ("HTTP 401", "HTTP 403", "UNAUTHENTICATED", "PERMISSION_DENIED")


class _NotYetError(LoadTestError):
    """It may come right by waiting."""


async def describe(client: Client, url: str, name: str | None, version: str | None, wait_s: float) -> Model:
    """A model that is ready, as its server describes it.

    Args:
        client: reaches the server.
        url: for messages.
        name: of the model; None: the only one there is.
        version: of the model; None: the server chooses.
        wait_s: how long to wait for the server and the model.

    Raises:
        LoadTestError: the server does not answer, has no such model, or it is not ready.
    """
    until = time.monotonic() + wait_s
    while True:
        try:
            return await _describe(client, url, name, version)
        except _NotYetError:
            if time.monotonic() >= until:
                raise
        await asyncio.sleep(AGAIN_S)


async def _describe(client: Client, url: str, name: str | None, version: str | None) -> Model:
    try:
        server = await client.server()
        name = name or await _only(client, url)
        metadata = await _metadata(client, url, name, version)
        if not await client.ready(name, version):
            raise _NotYetError(f"the model {name!r} at {url} is not ready")
        inputs, outputs = tensor_specs(metadata.get("inputs")), tensor_specs(metadata.get("outputs"))
        return Model(name, version, inputs, outputs, metadata, server)
    except UnreachableError as error:
        raise _NotYetError(f"{url} does not answer: {error}") from None
    except BadAnswerError as error:
        raise LoadTestError(f"{url} is no server of the Open Inference Protocol that can be loaded: {error}") from None
    except StatusError as error:
        if error.status in _DENIED:
            raise LoadTestError(f"{url} lets nobody in without its bearer token ({error}); give it with --token-file") from None
        raise _NotYetError(f"{url} does not describe itself: {error}") from None


async def _metadata(client: Client, url: str, name: str, version: str | None) -> dict[str, object]:
    try:
        return dict(await client.describe(name, version))
    except StatusError as error:
        if error.status in _DENIED:
            raise
        try:
            names = [known for known, _ in await client.index()]
        except (StatusError, BadAnswerError):
            raise LoadTestError(f"{url} does not describe the model {name!r} and lists no models: {error}") from None
        if name in names and version is None:
            raise _NotYetError(f"the model {name!r} at {url} is not ready: {error}") from None
        if name in names:
            raise LoadTestError(f"{url} does not describe version {version} of {name!r}: {error}") from None
        raise LoadTestError(f"{url} has no model {name!r}; it has {', '.join(names) or 'none'}") from None


async def _only(client: Client, url: str) -> str:
    try:
        models = await client.index()
    except (StatusError, BadAnswerError) as error:
        raise LoadTestError(f"{url} does not list its models ({error}); name one with --model") from None
    names = list(dict.fromkeys(name for name, _ in models))
    if len(names) != 1:
        raise LoadTestError(f"{url} has {len(names) or 'no'} models; name one with --model: {', '.join(names)}")
    return names[0]
