"""What the programs do when something is missing or goes wrong; needs neither Node nor a browser."""

from __future__ import annotations

import shutil
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.portability import programs


@pytest.mark.parametrize("run", [programs.run_in_node, programs.run_in_browser])
@pytest.mark.parametrize("required", ["0", "1"])
def test_what_is_missing_is_said(run: Any, required: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPAU_REQUIRE_PORTABILITY", required)
    error = pytest.fail.Exception if required == "1" else pytest.skip.Exception
    monkeypatch.setattr(shutil, "which", lambda name: None)
    with pytest.raises(error, match=r"installed .*apt install"):
        run(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda name: "/bin/false")
    monkeypatch.setattr(programs, "PACKAGES", tmp_path)
    with pytest.raises(error, match=r"npm package onnxruntime-.*make portability"):
        run(tmp_path)


def test_a_program_that_dies_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "PACKAGES", tmp_path)
    for name in ("onnxruntime-node", "onnxruntime-web"):
        (tmp_path / name).mkdir()
    false = shutil.which("false")
    monkeypatch.setattr(shutil, "which", lambda name: false)
    with pytest.raises(AssertionError, match="Node ended with 1"):
        programs.run_in_node(tmp_path)
    with pytest.raises(AssertionError, match="the page did not finish"):
        programs.run_in_browser(tmp_path)


def test_the_server_serves_two_folders_and_no_more(tmp_path: Path) -> None:
    programs.write_jobs(tmp_path, [programs.Job("a", b"model", np.zeros((2, 3), dtype=np.float32))])
    with programs._served(tmp_path) as server:
        base = f"http://127.0.0.1:{server.server_address[1]}"

        def get(path: str) -> bytes:
            with urllib.request.urlopen(f"{base}/{path}", timeout=10) as answer:
                return bytes(answer.read())

        assert get("work/a.onnx") == b"model"
        assert len(get("work/a.input")) == 24
        assert b"runJobs" in get("jobs.mjs")
        with pytest.raises(urllib.error.HTTPError, match="404") as caught:
            get("../../README.md")
        caught.value.close()
        assert not server.finished.is_set()
        with urllib.request.urlopen(f"{base}/work/failed.txt", data=b"reason", timeout=10) as answer:
            assert answer.status == 204
        assert server.finished.wait(10)
    assert (tmp_path / "failed.txt").read_text() == "reason"
