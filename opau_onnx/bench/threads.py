"""One pool of threads for all onnxruntime sessions of the process.

By default each session has a pool of its own whose idle threads spin for about 40 ms after a run, in the hope of more work.
With several sessions in one process, those of the last one take the cores of the next: on 2 cores Gelu then took twice the time
that it takes alone (1,060 instead of 530 us at 1 Mi elements). Without spinning it took a tenth more, at 64 Ki a third. With
one pool for all sessions, which spins as it does by default, Relu took what it takes alone: times are taken like that here.
PyTorch has a pool of its own; between the two the benchmark waits until the idle threads are asleep.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from opau_onnx.errors import BenchError

_shared: int | None = None


def share(count: int) -> None:
    """Create the one pool of ``count`` threads (the caller's included) for sessions with ``use_per_session_threads`` off.

    Raises:
        BenchError: this process has one already, of another size.
    """
    global _shared
    import onnxruntime

    if _shared is None:
        try:
            onnxruntime.set_global_thread_pool_sizes(count, 1)
        except Exception as error:  # onnxruntime's exceptions have no common base class
            raise BenchError(
                f"onnxruntime gives this process no pool of {count} threads ({error}); run opau-bench by itself"
            ) from None
        _shared = count
    if _shared != count:
        raise BenchError(f"this process has a thread pool of {_shared} for good; {count} threads need a process of their own")


def physical_cores() -> int:
    """Cores that this process may use, two hyperthreads counted once; onnxruntime's own default."""
    allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set(range(os.cpu_count() or 1))
    cores: set[str] = set()
    for cpu in allowed:
        path = Path(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list")
        siblings = str(cpu)
        with suppress(OSError):
            siblings = path.read_text().strip()
        cores.add(siblings)
    return max(1, len(cores))
