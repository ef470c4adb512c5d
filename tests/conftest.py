"""What all tests share."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator

import pytest


def pytest_configure(config: pytest.Config) -> None:
    if os.environ.get("PYTEST_XDIST_WORKER"):  # workers beside each other gain nothing from threads
        import torch

        torch.set_num_threads(1)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print, for each test function that records "error / bound", the largest one: also when all pass."""
    worst: dict[str, tuple[float, str]] = {}
    for report in terminalreporter.getreports("passed") + terminalreporter.getreports("failed"):
        for name, value in getattr(report, "user_properties", []):
            if name == "error / bound":
                test, _, case = report.nodeid.partition("[")
                worst[test] = max(worst.get(test, (0.0, "")), (value, case.rstrip("]")))
    for test, (value, case) in sorted(worst.items()):
        terminalreporter.write_line(f"largest error / bound {value:.3f} in {test}, at {case}")


@pytest.fixture(autouse=True, scope="session")
def own_cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is written into the user's cache."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OPAU_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(autouse=True)
def own_logging() -> Iterator[None]:
    """No test leaves log handlers or levels behind: a command's writes to a stream that is closed when the test ends."""
    loggers = [logging.getLogger(name) for name in (None, "opau_onnx")]
    before = [(logger, logger.handlers[:], logger.level) for logger in loggers]
    yield
    for logger, handlers, level in before:
        logger.handlers[:] = handlers
        logger.setLevel(level)


@pytest.fixture
def cuda() -> str:
    """The device "cuda". Skips without one, but fails where OPAU_REQUIRE_CUDA=1 promises one."""
    import torch

    if not torch.cuda.is_available():
        if os.environ.get("OPAU_REQUIRE_CUDA") == "1":
            pytest.fail("OPAU_REQUIRE_CUDA=1, but torch sees no CUDA device")
        pytest.skip("no CUDA device")
    return "cuda"
