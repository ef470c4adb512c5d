"""Who is let in: the token and TLS, over gRPC and HTTP, and the files that they are read from."""

from __future__ import annotations

import http.client
import socket
import ssl
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tritonclient.grpc as triton
from tritonclient.grpc import service_pb2 as pb
from tritonclient.utils import InferenceServerException

from opau_onnx.errors import LoadError
from opau_onnx.serve import security, tls
from opau_onnx.serve.config import ServerSettings
from opau_onnx.serve.security import LONGEST_TOKEN, Access, Token
from tests.serve import nets
from tests.serve.certificates import Pair, pair
from tests.serve.conftest import Running
from tests.serve.http_client import call
from tests.serve.rpc_server import client, fails, message, stub, tensor

ROW = np.ones((1, 4), np.float32)


@pytest.mark.parametrize("content", [b"s3cret", b"s3cret\n", b" s3cret \r\nsecond line\n"])
def test_the_first_line_is_the_token(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "token").write_bytes(content)
    made = Token(tmp_path / "token")
    for right in ("Bearer s3cret", "bearer s3cret", "BEARER  s3cret "):
        assert made.allows(right)
    for wrong in ("", "s3cret", "Bearer", "Bearer ", "Bearer s3cre", "Bearer s3cret2", "Basic s3cret", "Bearer sécret"):
        assert not made.allows(wrong)


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "is empty"),
        (b"\n\nsecond", "is empty"),
        (b"two words\n", "is no token"),
        ("schlüssel".encode(), "is no token"),
        (b"x" * (LONGEST_TOKEN + 1), "is no token"),
    ],
)
def test_a_file_that_holds_no_token(tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "token").write_bytes(content)
    with pytest.raises(LoadError, match=reason):
        Access(ServerSettings(token_file=str(tmp_path / "token")))


def test_a_token_file_that_is_not_there(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(LoadError, match="cannot be read: "):
            Token(path)
    Access(ServerSettings()).check("inference", None)


def test_a_token_that_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setattr(security, "LOOK_SECONDS", 0.0)
    file = tmp_path / "token"
    file.write_text("first")
    made = Token(file)
    file.write_text("the second")
    assert made.allows("Bearer the-second") is False
    assert made.allows("Bearer first")  # two words are no token: the old one stays
    assert "the token stays as it was" in caplog.text
    file.write_text("second")
    assert made.allows("Bearer second")
    assert not made.allows("Bearer first")
    file.unlink()
    assert made.allows("Bearer second")


def test_models_are_not_controlled_by_clients_unless_allowed(running: Running, tmp_path: Path) -> None:
    server = running({"m": nets.linear(tmp_path / "m.onnx")}, model_control=False)
    for action in ("unload", "load"):
        status, answer, _ = call(server, "POST", f"/v2/repository/models/m/{action}")
        assert (status, "--model-control" in answer["error"]) == (403, True)
    with client(server) as made:
        for change in (made.load_model, made.unload_model):
            with pytest.raises(InferenceServerException, match="PERMISSION_DENIED"):
                change("m")
        assert made.is_model_ready("m")
    assert call(server, "POST", "/v2/repository/index")[0] == 200
    server.stop()


def test_each_area_has_its_token(running: Running, tmp_path: Path) -> None:
    files = {}
    for area in ("token", "metrics_token", "admin_token"):
        (tmp_path / area).write_text(area)
        files[f"{area}_file"] = str(tmp_path / area)
    server = running({"m": nets.linear(tmp_path / "m.onnx")}, model_control=False, **files)
    paths = {
        "token": ("GET", "/v2/models/m"), "metrics_token": ("GET", "/metrics"),
        "admin_token": ("POST", "/v2/repository/models/m/load"),
    }  # fmt: skip
    for area, (method, path) in paths.items():
        statuses = {sent: call(server, method, path, Authorization=f"Bearer {sent}")[0] for sent in paths}
        assert statuses == {sent: 200 if sent == area else 401 for sent in paths}
        assert call(server, method, path)[0] == 401
    with client(server) as made:
        with pytest.raises(InferenceServerException, match=r"UNAUTHENTICATED.*admin"):
            made.unload_model("m", headers={"authorization": "Bearer token"})
        made.unload_model("m", headers={"authorization": "Bearer admin_token"})
    server.stop()


def test_web_pages_of_other_origins_change_nothing(running: Running, tmp_path: Path) -> None:
    own = "https://console.example"
    server = running({"m": nets.linear(tmp_path / "m.onnx")}, cors_origins=[own])
    path = "/v2/repository/models/m/load"
    strange: list[dict[str, str]] = [
        {"Origin": "https://evil.example"}, {"Origin": "null"}, {"Sec_Fetch_Site": "cross-site"},
        {"Sec_Fetch_Site": "same-site", "Origin": f"http://127.0.0.1:{server.http_port + 1}"},
    ]  # fmt: skip
    for headers in strange:
        assert call(server, "POST", path, **headers)[0] == 403
    same = {"Origin": f"http://127.0.0.1:{server.http_port}", "Sec_Fetch_Site": "same-origin"}
    for headers in ({}, same, {"Sec_Fetch_Site": "none"}, {"Origin": own, "Sec_Fetch_Site": "cross-site"}):
        assert call(server, "POST", path, **headers)[0] == 200
    for origin, shown in ((own, own), ("https://evil.example", None)):
        _, _, headers = call(server, "GET", "/v2/models/m", Origin=origin)
        assert headers.get("access-control-allow-origin") == shown
        status, _, _ = call(server, "OPTIONS", path, Origin=origin, Access_Control_Request_Method="POST")
        assert status == (200 if shown else 400)
    server.stop()


def test_the_token_over_grpc(running: Running, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("s3cret\n")
    server = running({"m": nets.linear(tmp_path / "m.onnx")}, http_port=-1, token_file=str(tmp_path / "token"))
    with client(server) as made:
        assert made.is_server_live()
        assert made.is_server_ready()
        for headers in (None, {"authorization": "Bearer wrong"}, {"authorization": "s3cret"}):
            with pytest.raises(InferenceServerException, match=r"UNAUTHENTICATED.*authorization: Bearer TOKEN"):
                made.infer("m", [tensor("x", ROW)], headers=headers)
            with pytest.raises(InferenceServerException, match="UNAUTHENTICATED"):
                made.load_model("m", headers=headers)
        right = {"authorization": "Bearer s3cret"}
        assert made.infer("m", [tensor("x", ROW)], headers=right).as_numpy("y").tolist() == [[3.0] * 4]
        assert made.get_server_metadata(headers=right).name == "opau-onnx"
    with stub(server) as call, fails("UNAUTHENTICATED"):
        call("SystemSharedMemoryStatus", b"", pb.SystemSharedMemoryStatusResponse)
    with stub(server) as call:
        answers = call.channel.stream_stream("/inference.GRPCInferenceService/ModelStreamInfer")(iter([]), timeout=30)
        with fails("UNAUTHENTICATED"):
            list(answers)
    server.stop()


def test_tls_over_both_protocols(running: Running, tmp_path: Path) -> None:
    ours, other = pair(tmp_path, "server"), pair(tmp_path, "other")
    server = running({"m": nets.linear(tmp_path / "m.onnx")}, tls_cert=str(ours.cert), tls_key=str(ours.key))
    with client(server, ssl=True, root_certificates=str(ours.cert)) as made:
        assert made.infer("m", [tensor("x", ROW)]).as_numpy("y").tolist() == [[3.0] * 4]
    for wrong in ({"ssl": True, "root_certificates": str(other.cert)}, {}):
        with client(server, **wrong) as made, pytest.raises(InferenceServerException, match="UNAVAILABLE"):
            made.get_server_metadata(client_timeout=20)
    assert https(server.http_port, ssl.create_default_context(cafile=str(ours.cert))) == 200
    with pytest.raises(ssl.SSLCertVerificationError):
        https(server.http_port, ssl.create_default_context(cafile=str(other.cert)))
    server.stop()


def test_only_clients_with_a_certificate(running: Running, tmp_path: Path) -> None:
    ours, theirs, other = (pair(tmp_path, name) for name in ("server", "client", "other"))
    files = {"tls_cert": str(ours.cert), "tls_key": str(ours.key), "tls_client_ca": str(theirs.cert)}
    server = running({"m": nets.linear(tmp_path / "m.onnx")}, **files)
    trust = {"ssl": True, "root_certificates": str(ours.cert)}
    with client(server, **trust, private_key=str(theirs.key), certificate_chain=str(theirs.cert)) as made:
        assert made.is_model_ready("m")
    for more in ({}, {"private_key": str(other.key), "certificate_chain": str(other.cert)}):
        with client(server, **trust, **more) as made, pytest.raises(InferenceServerException, match="UNAVAILABLE"):
            made.get_server_metadata(client_timeout=20)
    context = ssl.create_default_context(cafile=str(ours.cert))
    with pytest.raises((ssl.SSLError, ConnectionError, http.client.RemoteDisconnected)):
        https(server.http_port, context)
    context.load_cert_chain(theirs.cert, theirs.key)
    assert https(server.http_port, context) == 200
    server.stop()


def https(port: int | None, context: ssl.SSLContext) -> int:
    connection = http.client.HTTPSConnection("localhost", port, timeout=20, context=context)
    try:
        connection.request("GET", "/v2/health/live")
        return connection.getresponse().status
    finally:
        connection.close()


def test_no_tls_without_files() -> None:
    assert tls.Files.of(ServerSettings()) is None


def test_tls_files_that_cannot_be_used(tmp_path: Path) -> None:
    ours, other, hidden = pair(tmp_path, "server"), pair(tmp_path, "other"), pair(tmp_path, "hidden", "password")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "text").write_text("no PEM")
    cases: list[tuple[Any, Any, Any, str]] = [
        (ours.cert, tmp_path / "none", None, r"none does not exist"),
        (tmp_path, ours.key, None, r"does not exist"),
        (ours.cert, other.key, None, r"server\.pem with the key .*other\.key: key values mismatch"),
        (ours.key, ours.key, None, r"cannot use the certificate .*server\.key"),
        (tmp_path / "empty", ours.key, None, r"cannot use the certificate .*empty"),
        (ours.cert, ours.cert, None, r"with the key .*server\.pem"),
        (hidden.cert, hidden.key, None, r"the key is encrypted; give one without a password"),
        (ours.cert, ours.key, tmp_path / "text", r"text as the clients' authority"),
        (ours.cert, ours.key, tmp_path / "none", r"none does not exist"),
    ]
    for cert, key, authority, reason in cases:
        settings = ServerSettings(tls_cert=str(cert), tls_key=str(key), tls_client_ca=authority and str(authority))
        with pytest.raises(LoadError, match=reason):
            tls.Files.of(settings)


def put(source: Pair, target: Pair) -> None:
    """Replace the files as careful tools do, the certificate first."""
    for one, other in ((source.cert, target.cert), (source.key, target.key)):
        copy = other.with_suffix(".new")
        copy.write_bytes(one.read_bytes())
        copy.rename(other)


def test_tls_files_that_change(
    running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """New connections of both protocols have the new certificate; one that cannot be used changes nothing."""
    monkeypatch.setattr(tls, "LOOK_SECONDS", 0.0)
    old, new, used = (pair(tmp_path, name) for name in ("old", "new", "used"))
    put(old, used)
    server = running({"m": nets.linear(tmp_path / "m.onnx")}, tls_cert=str(used.cert), tls_key=str(used.key))

    def seen() -> tuple[str, bool]:
        with triton.InferenceServerClient(server.grpc, ssl=True, root_certificates=str(new.cert)) as made:
            try:
                over_grpc = bool(made.is_server_live(client_timeout=20))
            except InferenceServerException:
                over_grpc = False
        return ssl.get_server_certificate(("127.0.0.1", server.http_port), timeout=20), over_grpc

    assert seen() == (old.cert.read_text(), False)
    used.cert.write_bytes(new.cert.read_bytes())  # the key is not there yet
    assert seen() == (old.cert.read_text(), False)
    assert "TLS stays as it was: TLS cannot use the certificate" in caplog.text
    put(new, used)
    assert seen() == (new.cert.read_text(), True)
    used.key.unlink()
    assert seen() == (new.cert.read_text(), True)
    assert https(server.http_port, ssl.create_default_context(cafile=str(new.cert))) == 200
    server.stop()


def test_a_clients_authority_that_changes(running: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Clients of the old authority are not let in any more, those with a session from before neither."""
    monkeypatch.setattr(tls, "LOOK_SECONDS", 0.0)
    ours, first, second = (pair(tmp_path, name) for name in ("server", "first", "second"))
    authority = tmp_path / "authority.pem"
    authority.write_bytes(first.cert.read_bytes())
    files = {"tls_cert": str(ours.cert), "tls_key": str(ours.key), "tls_client_ca": str(authority)}
    server = running({"m": nets.linear(tmp_path / "m.onnx")}, **files)
    clients = {}
    for one in (first, second):
        clients[one] = ssl.create_default_context(cafile=str(ours.cert))
        clients[one].load_cert_chain(one.cert, one.key)

    def let_in(one: Pair) -> tuple[bool, bool]:
        try:
            over_http = https(server.http_port, clients[one]) == 200
        except (ssl.SSLError, ConnectionError, http.client.RemoteDisconnected):
            over_http = False
        more = {"private_key": str(one.key), "certificate_chain": str(one.cert)}
        with triton.InferenceServerClient(server.grpc, ssl=True, root_certificates=str(ours.cert), **more) as made:
            try:
                return over_http, bool(made.is_server_live(client_timeout=20))
            except InferenceServerException:
                return over_http, False

    def answered(session: ssl.SSLSession | None) -> tuple[bool, ssl.SSLSession | None]:
        with socket.create_connection(("localhost", server.http_port), timeout=20) as raw:
            try:
                with clients[first].wrap_socket(raw, server_hostname="localhost", session=session) as secure:
                    secure.sendall(b"GET /v2/health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
                    return secure.recv(100).startswith(b"HTTP/1.1 200"), secure.session
            except (ssl.SSLError, ConnectionError):
                return False, None

    assert (let_in(first), let_in(second)) == ((True, True), (False, False))
    right, session = answered(None)
    assert right
    authority.write_bytes(second.cert.read_bytes())
    assert not answered(session)[0]
    authority.write_bytes(first.cert.read_bytes())
    clients[first].maximum_version = ssl.TLSVersion.TLSv1_2  # whose sessions the server could not forget
    assert not answered(None)[0]
    authority.write_bytes(second.cert.read_bytes())
    assert (let_in(first), let_in(second)) == ((False, False), (True, True))
    server.stop()


def test_a_request_without_tls_to_a_server_with_it_does_no_harm(running: Running, tmp_path: Path) -> None:
    ours = pair(tmp_path, "server")
    server = running({"m": nets.linear(tmp_path / "m.onnx")}, http_port=-1, tls_cert=str(ours.cert), tls_key=str(ours.key))
    for _ in range(3):
        with stub(server) as call, fails("UNAVAILABLE"):
            call("ModelInfer", message("m", ROW))
    with triton.InferenceServerClient(server.grpc, ssl=True, root_certificates=str(ours.cert)) as made:
        assert made.is_server_ready()
    server.stop()
