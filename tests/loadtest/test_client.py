"""Before the load: addresses, servers that are not there or not ready, unknown models, TLS, tokens, expected responses."""

from __future__ import annotations

import asyncio
import datetime
import ipaddress
import ssl
import subprocess
import sys
from pathlib import Path
from typing import Any

import grpc
import pytest

from opau_onnx.loadtest import LoadResult, LoadTestConfig, LoadTestError, run_async
from opau_onnx.loadtest.config import target
from opau_onnx.loadtest.recorder import CORRECT, INCORRECT
from tests.loadtest.fakes import FakeGrpc, FakeHttp
from tests.loadtest.onnx_models import twice
from tests.loadtest.test_responses import QUICK, load

FAKES = pytest.mark.parametrize("fake", [FakeHttp, FakeGrpc])
FEW = {"clients": 2, "requests": 10, "warmup_s": 0, "pool": 4}


def few(**settings: Any) -> LoadTestConfig:
    return LoadTestConfig(**FEW, **settings)


@pytest.mark.parametrize(
    ("url", "found"),
    [
        ("http://127.0.0.1:8000", ("http", False, "127.0.0.1", 8000, "")),
        ("https://example.org/route/", ("http", True, "example.org", 443, "/route")),
        ("http://[::1]:80", ("http", False, "::1", 80, "")),
        ("grpc://localhost:8001", ("grpc", False, "localhost", 8001, "")),
        ("grpcs://localhost:8001/", ("grpc", True, "localhost", 8001, "")),
    ],
)
def test_addresses(url: str, found: tuple[Any, ...]) -> None:
    got = target(url)
    assert (got.protocol, got.tls, got.host, got.port, got.prefix) == found


def test_parts_of_addresses() -> None:
    assert target("http://[::1]:80").authority == "[::1]:80"
    assert target("http://h:1/p").model_path("a b/c", "2") == "/p/v2/models/a%20b%2Fc/versions/2"


@pytest.mark.parametrize(
    "url",
    [
        "127.0.0.1:8000",
        "ftp://h:1",
        "http://",
        "grpc://h",
        "grpc://h:1/path",
        "http://u:p@h",
        "http://h?x=1",
        "http://h:99999",
        "",
    ],
)
def test_no_addresses(url: str) -> None:
    with pytest.raises(LoadTestError, match=r"http://|gRPC|token"):
        target(url)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"clients": 0}, "clients is 0; expected a number of at least 1"),
        ({"rate": 0.0}, "rate is 0.0; expected a number above 0"),
        ({"rate": float("nan")}, "rate is nan"),
        ({"timeout_s": -1.0}, "timeout_s is -1.0"),
        ({"rows": (3, 2)}, r"rows is \(3, 2\)"),
        ({"rtol": -1.0}, "rtol is -1.0"),
        ({"arrivals": "often"}, "arrivals is 'often'; expected one of poisson, uniform"),
        ({"token": "a\nb"}, "bearer token"),
        ({"token": ""}, "bearer token"),
    ],
)
def test_settings_that_make_no_sense(settings: dict[str, Any], said: str) -> None:
    with pytest.raises(LoadTestError, match=said):
        LoadTestConfig(**settings)


def test_the_token_is_not_told() -> None:
    settings = LoadTestConfig(token="a secret")
    assert "secret" not in repr(settings) + str(settings.as_dict())


@FAKES
def test_nobody_there(fake: Any) -> None:
    async def port() -> str:
        server = fake()
        async with server.running():
            return str(server.url)

    url = asyncio.run(port())
    with pytest.raises(LoadTestError, match=rf"{url} cannot be reached: .*([Cc]onnect|refused)"):
        asyncio.run(run_async(url, settings=few()))


def test_not_a_server_of_the_protocol() -> None:
    async def inside() -> None:
        async def hang_up(reader: Any, writer: Any) -> None:
            writer.write(b"220 smtp ready\r\n")
            writer.close()

        server = await asyncio.start_server(hang_up, "127.0.0.1", 0)
        async with server:
            await run_async(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", settings=few())

    with pytest.raises(LoadTestError, match="cannot be reached: the response is not HTTP"):
        asyncio.run(inside())


def failing(server: Any, settings: LoadTestConfig, model: str | None = None) -> str:
    async def inside() -> None:
        async with server.running():
            await run_async(server.url, model, settings)

    with pytest.raises(LoadTestError) as raised:
        asyncio.run(inside())
    return str(raised.value)


@FAKES
def test_an_unknown_model(fake: Any) -> None:
    assert failing(fake(), few(), "thrice").endswith("has no model 'thrice'; it has twice")


def test_an_unknown_model_of_a_server_that_lists_none() -> None:
    server = FakeHttp()
    server.lists = False
    assert "returns no metadata of the model 'thrice' and no list of models: HTTP 404: not here" in failing(
        server, few(), "thrice"
    )
    assert "does not list its models (HTTP 404: not here); name one with --model" in failing(server, few())


@FAKES
def test_a_model_that_is_not_ready(fake: Any) -> None:
    server = fake()
    server.ready = False
    assert "the model 'twice' at" in failing(server, few())
    assert "is not ready" in failing(server, few(wait_s=0.3))


@FAKES
def test_a_model_that_is_listed_and_not_loaded(fake: Any) -> None:
    server = fake()
    server.known = False
    assert "is not ready" in failing(server, few(), "twice")
    assert "returns no metadata of version 7 of 'twice'" in failing(server, few(model_version="7"), "twice")


@FAKES
def test_waiting_for_a_server_and_its_model(fake: Any) -> None:
    async def inside() -> LoadResult:
        server = fake()
        async with server.running():
            pass  # to know a free port
        task = asyncio.create_task(run_async(server.url, settings=few(wait_s=20.0)))
        await asyncio.sleep(0.3)
        server.ready = False
        async with server.running():
            await asyncio.sleep(0.3)
            server.ready = True
            return await task

    assert asyncio.run(inside()).ok


def test_importing_the_load_test_loads_no_framework() -> None:
    """PyTorch comes with the policies, when a tolerance is measured; not with a given one."""
    code = (
        "import sys; from opau_onnx.loadtest import api, http, rpc, tolerance\n"
        "assert not {'torch', 'keras'} & set(sys.modules), sorted(sys.modules)\n"
        "assert 'opau_onnx.compare.tensors' in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@FAKES
def test_tokens(fake: Any) -> None:
    assert load(fake(token="very secret"), few(token="very secret")).ok
    for token in (None, "wrong"):
        said = failing(fake(token="very secret"), few(token=token))
        assert "requires a bearer token" in said
        assert "no token" in said


def test_a_prefix() -> None:
    assert load(FakeHttp(prefix="/route"), few()).ok


@FAKES
@pytest.mark.parametrize(
    ("act", "said"),
    [("error", "a single request before the load failed"), ("never", "no response"), ("missing", "output 'top'")],
)
def test_single_requests_that_fail(fake: Any, act: str, said: str) -> None:
    act = {"error": "429" if fake is FakeHttp else "RESOURCE_EXHAUSTED"}.get(act, act)
    assert said in failing(fake(lambda n: act), few(timeout_s=0.3) if act == "never" else few())


@FAKES
def test_expected_responses_of_a_file(fake: Any, tmp_path: Path) -> None:
    server = fake()
    path = twice(tmp_path / "twice.onnx")
    result = load(server, LoadTestConfig(clients=2, requests=30, warmup_s=0, pool=4, rows=(1, 4), expect=path))
    assert result.ok
    assert result.counts == {CORRECT: 30}
    assert server.seen == 30
    assert result.expected == f"{path}, run in onnxruntime here"


def test_a_server_that_is_always_wrong_is_detected_by_a_file(tmp_path: Path) -> None:
    settings = LoadTestConfig(clients=2, requests=20, warmup_s=0, pool=4, expect=twice(tmp_path / "m.onnx", shift=1.5))
    result = load(FakeHttp(), settings)
    assert result.counts == {INCORRECT: 20}
    assert result.requests_per_s == 0


def test_a_file_that_is_another_model(tmp_path: Path) -> None:
    other = twice(tmp_path / "m.onnx", output="z")
    assert "is not the model that the server has: its outputs are z: FP32" in failing(FakeHttp(), few(expect=other))


def test_responses_that_could_be_mixed_up_are_counted() -> None:
    assert load(FakeHttp(), QUICK).indistinguishable == 0
    assert load(FakeHttp(), LoadTestConfig(clients=2, requests=10, warmup_s=0, pool=8, atol=1e6)).indistinguishable >= 2


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """(The certificate, which is its own authority, of 127.0.0.1; its key.)"""
    reason = "makes a certificate"
    x509 = pytest.importorskip("cryptography.x509", reason=reason)
    ec = pytest.importorskip("cryptography.hazmat.primitives.asymmetric.ec", reason=reason)
    from cryptography.hazmat.primitives import hashes, serialization

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "opau tests")])
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(hours=1))
        .not_valid_after(now + datetime.timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
    )
    folder = tmp_path_factory.mktemp("tls")
    cert_file, key_file = folder / "cert.pem", folder / "key.pem"
    cert_file.write_bytes(builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    key_file.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return cert_file, key_file


def encrypted(fake: Any, certificates: tuple[Path, Path], settings: LoadTestConfig) -> LoadResult:
    cert, key = certificates
    if fake is FakeHttp:
        credentials: Any = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        credentials.load_cert_chain(cert, key)
    else:
        credentials = grpc.ssl_server_credentials([(key.read_bytes(), cert.read_bytes())])

    async def inside() -> LoadResult:
        server = fake()
        async with server.running(credentials):
            return await run_async(server.url.replace("://", "s://"), settings=settings)

    return asyncio.run(inside())


@FAKES
def test_tls(fake: Any, certificates: tuple[Path, Path]) -> None:
    assert encrypted(fake, certificates, few(ca=certificates[0])).ok


@FAKES
def test_a_certificate_that_nobody_vouches_for(fake: Any, certificates: tuple[Path, Path]) -> None:
    with pytest.raises(LoadTestError, match=r"cannot be reached: .*([Cc]ertificate|CERTIFICATE|Handshake|handshake)"):
        encrypted(fake, certificates, few(timeout_s=5))


@pytest.mark.parametrize("url", ["https://127.0.0.1:1", "grpcs://127.0.0.1:1"])
def test_an_authority_that_is_none(url: str, tmp_path: Path) -> None:
    (tmp_path / "ca.pem").write_text("nothing")
    for name in ("ca.pem", "none.pem"):
        with pytest.raises(LoadTestError, match=f"{name} cannot be used as a certificate authority"):
            asyncio.run(run_async(url, settings=few(ca=tmp_path / name)))
    with pytest.raises(LoadTestError, match="is not encrypted"):
        asyncio.run(run_async(url.replace("s://", "://"), settings=few(ca=tmp_path / "ca.pem")))
