"""report.html in a real browser: the verdict is seen, and nothing is asked for but the page itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from opau_onnx import verify_model
from opau_onnx.verify.html import render
from tests.portability import programs
from tests.verify import nets

pytestmark = pytest.mark.portability
EVIL = """<img src=evil.png><link rel=stylesheet href=evil.png><script src=evil.png></script>"""
OK = (0xDC, 0xF5, 0xE3)
"""The colour of the verdict's paper in the style sheet."""


def browser() -> str:
    found = next((path for name in programs.BROWSERS if (path := shutil.which(name))), None)
    programs._need(found is not None, f"none of {', '.join(programs.BROWSERS)} is installed (Debian: apt install chromium)")
    return str(found)


def show(folder: Path, page: str, *options: str) -> Sequence[str]:
    """Open a page of the folder; the paths that were asked for."""
    profile = folder / "profile"
    with programs._served(folder) as server:
        url = f"http://127.0.0.1:{server.server_address[1]}/work/{page}"
        command = [browser(), *programs.FLAGS, f"--user-data-dir={profile}", "--hide-scrollbars", *options, url]
        with programs._started(command, folder / "log.txt") as process:
            assert process.wait(programs.SECONDS) == 0, (folder / "log.txt").read_text(errors="replace")[-2000:]
    return server.asked


def test_the_verdict_is_seen_and_nothing_is_asked_for(tmp_path: Path) -> None:
    browser()
    files = nets.files(tmp_path)
    content = verify_model(nets.classifier(), files["net"], nets.pictures(2), runtimes=["ort-function"]).as_dict()
    content = json.loads(json.dumps(content))
    content["files"][0]["file"] = content["files"][0]["activations"][0]["node"] = EVIL
    (tmp_path / "report.html").write_text(render(content), encoding="utf-8")
    picture = tmp_path / "page.png"
    asked = show(tmp_path, "report.html", "--window-size=1000,800", f"--screenshot={picture}")
    assert asked == ["/work/report.html"]
    pixels = np.asarray(Image.open(picture).convert("RGB"))
    paper = (pixels == OK).all(axis=2)
    assert paper[:400].mean() > 0.2, "the verdict is not at the top"


def test_a_request_would_be_noticed(tmp_path: Path) -> None:
    (tmp_path / "page.html").write_text(f"<!DOCTYPE html>{EVIL}")
    assert "/work/evil.png" in show(tmp_path, "page.html", f"--screenshot={tmp_path / 'page.png'}")
