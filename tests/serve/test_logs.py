"""Log lines: what a machine reads from them, and what no client can do to them."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
import uvicorn
from hypothesis import given
from hypothesis import strategies as st

from opau_onnx.protocol.errors import UnauthenticatedError
from opau_onnx.serve import logs

ours = logging.getLogger("opau_onnx.serve")
CONTROL = "\x00\n\r\t\x1b[31m\x7f\x85\x9b\u2028\u202e\ud800"
"""New lines, colours, a terminal's commands, text that runs backwards, and what is no character."""
Configure = Callable[..., io.StringIO]


@pytest.fixture
def configure() -> Configure:
    """``configure(format, level)`` returns what is written."""

    def start(format: Any = "json", level: str = "info") -> io.StringIO:
        stream = io.StringIO()
        logs.configure(format, level, stream)
        return stream

    return start


def objects(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_json_line_holds_the_message_and_its_fields(configure: Configure) -> None:
    stream = configure()
    before = datetime.now(UTC)
    ours.info("model %s", "ready", extra={"fields": {"model": "m", "max_batch_size": 32, "cuda_graph": False, "reason": None}})
    (line,) = objects(stream)
    assert list(line)[:4] == ["timestamp", "level", "logger", "event"]
    stamp = line.pop("timestamp")
    assert stamp.endswith("Z")
    assert before <= datetime.fromisoformat(stamp) <= datetime.now(UTC)
    assert line == {
        "level": "info", "logger": "opau_onnx.serve", "event": "model ready",
        "model": "m", "max_batch_size": 32, "cuda_graph": False, "reason": None,
    }  # fmt: skip


def test_a_text_line_holds_the_message_and_its_fields(configure: Configure) -> None:
    stream = configure("text")
    fields = {"model": "m", "rows": 3, "name": "two words", "on": True, "sizes": [1, 2], "no": "", "quoted": 'a"b\\c'}
    ours.warning("a thing", extra={"fields": fields})
    stamp, _, rest = stream.getvalue().partition(" ")
    assert datetime.fromisoformat(stamp).tzinfo is not None
    start = "warning opau_onnx.serve: a thing "
    assert rest == start + 'model=m rows=3 name="two words" on=true sizes="[1, 2]" no="" quoted="a\\"b\\\\c"\n'


def test_a_field_replaces_no_key_of_the_line(configure: Configure) -> None:
    stream = configure()
    ours.info("happened", extra={"fields": {"event": "forged", "level": "forged", "exc_info": "forged"}})
    (line,) = objects(stream)
    assert (line["event"], line["level"]) == ("happened", "info")
    assert (line["event_"], line["level_"], line["exc_info_"]) == ("forged", "forged", "forged")


def line_of(format: Any, message: str, *values: Any, error: BaseException | None = None, **fields: Any) -> str:
    """Past the loggers: pytest keeps what they are told, and its workers cannot send each other half a surrogate."""
    reason = (type(error), error, error.__traceback__) if error else None
    record = ours.makeRecord(ours.name, logging.ERROR, "file", 1, message, values, reason, extra={"fields": fields})
    return logs.formatter(format).format(record)


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize("where", ["message", "field", "exception"])
def test_no_control_character_is_written(format: str, where: str) -> None:
    text = f"a{CONTROL}z"
    if where == "message":
        line = line_of(format, "client sent %s", text)
    elif where == "field":
        line = line_of(format, "bad name", model=text, names=[text])
    else:
        line = line_of(format, "failed", error=ValueError(text))
    assert ("ValueError: a" if where == "exception" else "\\u001b") in line
    assert line.isprintable()


@given(st.text(st.characters()))
def test_a_json_line_brings_back_what_was_logged(text: str) -> None:
    line = line_of("json", "%s", text, model=text)
    assert line.isprintable()
    assert json.loads(line)["model"] == json.loads(line)["event"] == text


@given(st.text(st.characters()))
def test_a_text_line_is_one_line(text: str) -> None:
    assert line_of("text", "%s", text, model=text).isprintable()


def test_an_exception_is_one_field(configure: Configure) -> None:
    stream = configure()
    rows = [2.5] * 3
    try:
        raise ZeroDivisionError(f"of {len(rows)}")
    except ZeroDivisionError:
        ours.exception("a request failed")
    (line,) = objects(stream)
    assert line["level"] == "error"
    assert line["exception"].startswith("Traceback (most recent call last):\n")
    assert line["exception"].endswith("ZeroDivisionError: of 3")
    assert str(rows) not in line["exception"]
    assert "exc_info" not in line


def test_an_exception_is_one_line_of_text(configure: Configure) -> None:
    stream = configure("text")
    try:
        raise ZeroDivisionError
    except ZeroDivisionError:
        ours.exception("a request failed")
    (line,) = stream.getvalue().splitlines()
    assert 'a request failed exception="Traceback (most recent call last):\\n' in line


@pytest.mark.parametrize("format", ["text", "json"])
@pytest.mark.parametrize(
    "text",
    [
        "Authorization: Bearer s3cr3t.t0ken_~+/==",
        "(b'authorization', b'Bearer s3cr3t.t0ken')",
        'headers {"authorization": "bearer s3cr3t"}',
        "BEARER  s3cr3t",
        "Bearer token-s3cr3t",
    ],
)
def test_no_bearer_token_is_written(configure: Configure, format: str, text: str) -> None:
    stream = configure(format)
    ours.warning("got %s", text, extra={"fields": {"header": text, "headers": [text]}})
    assert "s3cr3t" not in stream.getvalue()
    assert stream.getvalue().count("***") == 3


def test_the_words_bearer_token_are_no_token(configure: Configure) -> None:
    stream = configure()
    ours.warning(UnauthenticatedError.__doc__)
    (line,) = objects(stream)
    assert line["event"] == "The bearer token is missing or wrong."


def test_uvicorn_speaks_the_same_way(configure: Configure) -> None:
    stream = configure()
    uvicorn.Config("an:app", log_config=None, access_log=False)
    logging.getLogger("uvicorn.error").warning("Started server process [%d]", 7, extra={"color_message": "\x1b[1m7"})
    (line,) = objects(stream)
    assert (line["event"], line["logger"]) == ("Started server process [7]", "uvicorn.error")
    assert "color_message" not in line


def test_others_are_heard_when_they_warn(configure: Configure) -> None:
    stream = configure(level="debug")
    other = logging.getLogger("somebody.else")
    other.debug("details")
    other.info("more details")
    other.warning("a warning")
    ours.debug("ours")
    assert [line["event"] for line in objects(stream)] == ["a warning", "ours"]


@pytest.mark.parametrize(("level", "heard"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_the_level_says_what_is_written(configure: Configure, level: str, heard: int) -> None:
    stream = configure(level=level)
    for name in logs.LEVELS:
        ours.log(logs.LEVELS[name], name)
    assert [line["level"] for line in objects(stream)] == list(logs.LEVELS)[-heard:]


def test_a_second_call_replaces_the_first(configure: Configure) -> None:
    first, second = configure("text"), configure("json")
    ours.info("once")
    assert first.getvalue() == ""
    assert len(objects(second)) == 1


def test_it_writes_to_standard_error(configure: Configure, capsys: pytest.CaptureFixture[str]) -> None:
    configure()
    logs.configure("json", "info")
    ours.info("there")
    out, err = capsys.readouterr()
    assert out == ""
    assert json.loads(err)["event"] == "there"


def test_a_request_has_a_line_at_debug(configure: Configure) -> None:
    stream = configure(level="debug")
    logs.access("http", "m\n", 4, 200, 1.23456, "id-7")
    logs.access("grpc", "m", 0, "INVALID_ARGUMENT", 0.5)
    first, second = objects(stream)
    del first["timestamp"], second["timestamp"]
    assert first == {
        "level": "debug", "logger": "opau_onnx.serve.access", "event": "request", "protocol": "http", "model": "m\n",
        "rows": 4, "status": 200, "ms": 1.235, "request_id": "id-7",
    }  # fmt: skip
    assert "request_id" not in second
    assert second["status"] == "INVALID_ARGUMENT"


def test_a_request_has_no_line_otherwise(configure: Configure) -> None:
    stream = configure(level="info")
    logs.access("http", "m", 4, 200, 1.0)
    assert stream.getvalue() == ""
