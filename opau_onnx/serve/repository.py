"""The models of a server by name: which are loaded, and how one is swapped while it serves."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Literal

from opau_onnx.errors import OpauError
from opau_onnx.protocol.errors import InvalidRequestError, UnavailableError, UnknownModelError
from opau_onnx.serve.config import ModelSettings
from opau_onnx.serve.model import ServedModel, prepare
from opau_onnx.serve.statistics import Statistics

logger = logging.getLogger("opau_onnx.serve")
State = Literal["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]


@dataclass(eq=False)
class Entry:
    """A name of the repository.

    Attributes:
        served: the model that answers now.
        state: as the protocol's repository index calls it.
        reason: why it is unavailable, or what is to be known of it although it is ready.
    """

    name: str
    settings: ModelSettings
    served: ServedModel | None = None
    state: State = "UNAVAILABLE"
    reason: str = "not loaded"
    statistics: Statistics = field(default_factory=Statistics)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


class Repository:
    """Models by name; the names and files are the operator's, no client can add any."""

    def __init__(self, models: Mapping[str, ModelSettings]) -> None:
        self._entries = {name: Entry(name, settings) for name, settings in models.items()}
        self._retiring: set[asyncio.Task[None]] = set()
        self._stopping = threading.Event()

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def entry(self, name: str) -> Entry:
        """The entry of a name.

        Raises:
            UnknownModelError: there is none.
        """
        if name not in self._entries:
            raise UnknownModelError(f"unknown model {name!r}; this server has {', '.join(self._entries) or 'none'}")
        return self._entries[name]

    def get(self, name: str, version: str = "") -> ServedModel:
        """The model that answers now.

        Raises:
            UnknownModelError: no such model, or not in this version.
            UnavailableError: it is not loaded.
        """
        entry = self.entry(name)
        self._check_version(entry, version)
        if entry.served is None:
            raise UnavailableError(f"model {name!r} is {entry.state.lower()}: {entry.reason}")
        return entry.served

    def is_ready(self, name: str, version: str = "") -> bool:
        """Readiness of a model.

        Raises:
            UnknownModelError: no such model, or not in this version.
        """
        entry = self.entry(name)
        self._check_version(entry, version)
        return entry.served is not None

    @property
    def ready(self) -> bool:
        """Readiness of all models that should be loaded at the start, or were later."""
        return all(entry.served is not None for entry in self if entry.settings.load)

    async def load_all(self) -> None:
        """Load what the settings say.

        Raises:
            OpauError: of the first that cannot be loaded.
        """
        for entry in self:
            if entry.settings.load:
                await self._load(entry)

    async def load(self, name: str) -> None:
        """Load a model from its file, or swap it for what its file holds now; requests go on meanwhile.

        Raises:
            UnknownModelError: there is none.
            InvalidRequestError: it cannot be loaded; the one that served, if any, still does.
        """
        try:
            await self._load(self.entry(name))
        except UnknownModelError:
            raise
        except OpauError as error:
            raise InvalidRequestError(f"model {name!r} cannot be loaded: {error}") from None

    async def unload(self, name: str) -> None:
        """Stop serving a model; what was accepted is answered.

        Raises:
            UnknownModelError: there is none.
        """
        entry = self.entry(name)
        async with entry.lock:
            old, entry.served = entry.served, None
            entry.state, entry.reason = "UNAVAILABLE", "unloaded"
            if old is not None:
                self._retire(old)
        logger.info("model unloaded", extra={"fields": {"model": name}})

    async def drain(self) -> None:
        """Wait until every accepted request has ended."""
        for entry in self:
            if entry.served is not None:
                await entry.served.batcher.drain()
        await asyncio.gather(*self._retiring)

    def close(self) -> None:
        """End all workers and loads; what still waits gets an error."""
        self._stopping.set()
        for entry in self:
            if entry.served is not None:
                entry.served.batcher.close()
                entry.served, entry.state, entry.reason = None, "UNAVAILABLE", "the server is shutting down"

    async def _load(self, entry: Entry) -> None:
        async with entry.lock:
            if entry.served is None:
                entry.state, entry.reason = "LOADING", ""
            try:
                prepared = await asyncio.to_thread(prepare, entry.name, entry.settings, self._stopping)
            except BaseException as error:
                if entry.served is None:
                    entry.state, entry.reason = "UNAVAILABLE", str(error)
                raise
            new = ServedModel(entry.name, prepared, entry.statistics)
            old, entry.served = entry.served, new
            entry.state, entry.reason = "READY", prepared.warning
            if old is not None:
                self._retire(old)
        logger.info("model ready", extra={"fields": {"model": entry.name, **new.describe()}})

    def _retire(self, old: ServedModel) -> None:
        task = asyncio.get_running_loop().create_task(old.retire())
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)

    def _check_version(self, entry: Entry, version: str) -> None:
        if version not in ("", entry.settings.version):
            raise UnknownModelError(
                f"model {entry.name!r} has no version {version!r}; it has version {entry.settings.version!r}"
            )
