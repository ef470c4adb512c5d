"""LoadTestConfig and target of a load test. Nothing heavy is imported here."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import quote, urlsplit

from opau_onnx.core.reports import Reported
from opau_onnx.errors import OpauError

DEFAULT_SECONDS = 10.0
"""Seconds of measurement where neither a count nor a time is given."""
ARRIVALS = ("poisson", "uniform")
_SCHEMES = {"http": ("http", False), "https": ("http", True), "grpc": ("grpc", False), "grpcs": ("grpc", True)}
_DEFAULT_PORTS = {"http": 80, "https": 443}
Shape = tuple[int, ...]


class LoadTestError(OpauError):
    """A load test that cannot be carried out (not: one that found errors)."""


@dataclass(frozen=True, kw_only=True)
class LoadTestConfig(Reported):
    """LoadTestConfig of a load test.

    Attributes:
        clients: closed loop: number of clients, each of which sends its next request after the last response; open loop: most
            requests in flight, the others wait (and their latency grows). None: 16, or 256.
        rate: open loop: requests per second, independent of the server; None: closed loop.
        arrivals: open loop: "poisson", exponential interarrival_times; "uniform", equal ones.
        requests, seconds: end of the measurement, whichever comes first; both None: 10 seconds.
        warmup_s: seconds before it; those responses are checked but not measured.
        timeout_s: for one request, from when it is sent (closed loop) or arrives (open loop).
        rows: fewest and most rows of a request; None: what the model fixes, else the input shapes' first size, else 1.
        pool: number of distinct prepared requests; None: 64 or the number of clients, fewer where they are large.
        input_shapes: for dynamic axes: one shape for each input in order, or shapes by the inputs' names.
        data: real inputs as :func:`opau_onnx.io.samples.read_samples` takes them; None: random ones.
        expect: ONNX file whose outputs are expected; None: the server's own responses to single requests before the load.
        rtol, atol: tolerance atol + rtol * abs(expected); None, both: measured, see :mod:`opau_onnx.loadtest.tolerance`.
        seed: of the random inputs, the order of row counts and the arrivals.
        model_version: of the model on the server; None: the server chooses.
        ca: PEM file of the authority that signed the server's certificate; None: the system's.
        token: bearer token.
        wait_s: seconds to wait for the server and the model to be ready.
        unreachable_timeout_s: seconds without any connection after which the test ends.
    """

    hidden = ("token",)

    clients: int | None = None
    rate: float | None = None
    arrivals: Literal["poisson", "uniform"] = "poisson"
    requests: int | None = None
    seconds: float | None = None
    warmup_s: float = 1.0
    timeout_s: float = 30.0
    rows: tuple[int, int] | None = None
    pool: int | None = None
    input_shapes: Sequence[Shape] | Mapping[str, Shape] | None = None
    data: str | Path | None = None
    expect: str | Path | None = None
    rtol: float | None = None
    atol: float | None = None
    seed: int = 0
    model_version: str | None = None
    ca: str | Path | None = None
    token: str | None = field(default=None, repr=False)
    wait_s: float = 0.0
    unreachable_timeout_s: float = 30.0

    def __post_init__(self) -> None:
        _at_least(1, clients=self.clients, requests=self.requests, pool=self.pool)
        _at_least(0.0, warmup_s=self.warmup_s, rtol=self.rtol, atol=self.atol, wait_s=self.wait_s)
        _above_zero(
            rate=self.rate, seconds=self.seconds, timeout_s=self.timeout_s, unreachable_timeout_s=self.unreachable_timeout_s
        )
        if self.arrivals not in ARRIVALS:
            raise LoadTestError(f"arrivals is {self.arrivals!r}; expected one of {', '.join(ARRIVALS)}")
        if self.rows is not None and not 1 <= self.rows[0] <= self.rows[1]:
            raise LoadTestError(f"rows is {self.rows}; expected the fewest and the most, at least 1, the smaller first")
        if self.token is not None and not (self.token.isascii() and self.token.isprintable() and self.token.strip()):
            raise LoadTestError("the bearer token is empty or holds other than printable ASCII characters")

    @property
    def connections(self) -> int:
        """Most requests in flight at once."""
        return self.clients or (16 if self.rate is None else 256)

    @property
    def measured_s(self) -> float | None:
        """Seconds that end the measurement; None: the count alone does."""
        return DEFAULT_SECONDS if self.seconds is None and self.requests is None else self.seconds


def _at_least(least: float, **values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not (value >= least and math.isfinite(value)):
            raise LoadTestError(f"{name} is {value}; expected a number of at least {least:g}")


def _above_zero(**values: float | None) -> None:
    for name, value in values.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise LoadTestError(f"{name} is {value}; expected a number above 0")


@dataclass(frozen=True)
class Target:
    """Address of a server.

    Attributes:
        url: as it was given.
        protocol: "http" or "grpc".
        tls: whether the connection is encrypted.
        host, port: of the server.
        prefix: of every HTTP path, e.g. the route of a Ray application.
    """

    url: str
    protocol: Literal["http", "grpc"]
    tls: bool
    host: str
    port: int
    prefix: str

    @property
    def authority(self) -> str:
        """HOST:PORT, an IPv6 address in brackets."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    def model_path(self, model: str, version: str | None) -> str:
        """HTTP path of a model."""
        return f"{self.prefix}/v2/models/{quote(model, safe='')}" + (f"/versions/{quote(version, safe='')}" if version else "")


def target(url: str, *, ca: str | Path | None = None) -> Target:
    """Read an address.

    Raises:
        LoadTestError: it is none, or a certificate authority is given for a connection without TLS.
    """
    expected = "expected e.g. http://127.0.0.1:8000, https://HOST[/PREFIX], grpc://127.0.0.1:8001 or grpcs://HOST:PORT"
    try:
        parts = urlsplit(url)
        host, port = parts.hostname, parts.port
    except ValueError as error:
        raise LoadTestError(f"{url!r} is no address ({error}); {expected}") from None
    port = port or _DEFAULT_PORTS.get(parts.scheme)
    if parts.scheme not in _SCHEMES or not host or not port:
        raise LoadTestError(f"{url!r} is no address of a server; {expected}")
    if parts.username or parts.query or parts.fragment:
        raise LoadTestError(f"{url!r} holds more than a host, a port and a path; a token comes from a file or the environment")
    protocol, tls = _SCHEMES[parts.scheme]
    prefix = quote(parts.path.rstrip("/"), safe="/%")
    if protocol == "grpc" and prefix:
        raise LoadTestError(f"{url!r} has a path, which gRPC does not know; {expected}")
    if ca is not None and not tls:
        raise LoadTestError(f"a certificate authority is given, but {url!r} is not encrypted; use https:// or grpcs://")
    return Target(url, "grpc" if protocol == "grpc" else "http", tls, host, port, prefix)
