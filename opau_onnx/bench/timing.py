"""Interleaved timing: the subjects take turns, so that whatever drifts hits all of them alike."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Subject:
    """Something whose time is taken.

    Attributes:
        key: short name, the same in all results.
        label: for tables.
        implementation: who runs it, as that runtime itself says.
        pool: whose threads it runs on; subjects of one pool take their turns one after the other.
        run: does the work so many times, and returns when all of it is done.
    """

    key: str
    label: str
    implementation: str
    pool: str
    run: Callable[[int], None]


@dataclass(frozen=True)
class Plan:
    """Settings of a measurement.

    Attributes:
        rounds: turns of each subject.
        sample_seconds: a turn repeats the work until it takes about this long.
        subject_seconds: slow subjects get fewer turns, evenly spread, to take about this long in all.
        fewest: but never fewer turns than this.
        pause_seconds: wait between pools, until the idle threads of the last one no longer spin.
    """

    rounds: int = 15
    sample_seconds: float = 0.01
    subject_seconds: float = 4.0
    fewest: int = 5
    pause_seconds: float = 0.06


@dataclass(frozen=True)
class Times:
    """Seconds of one unit of work in each turn, each a mean over ``repeats``."""

    seconds: list[float]
    repeats: int


def measure(
    subjects: Sequence[Subject],
    plan: Plan,
    *,
    clock: Callable[[], float] = time.perf_counter,
    sleep: Callable[[float], None] = time.sleep,
) -> dict[str, Times]:
    """Times of every subject. Each turn starts with one run that is not counted: data into caches, threads awake."""
    repeats: dict[str, int] = {}
    turns: dict[str, int] = {}
    for subject in _turns(subjects, 0, plan, sleep):
        once = _once(subject, clock)
        repeats[subject.key] = max(1, math.ceil(plan.sample_seconds / max(once, 1e-9)))
        whole = max(once, 1e-9) * (repeats[subject.key] + 1)
        turns[subject.key] = max(1, min(plan.rounds, max(plan.fewest, int(plan.subject_seconds / whole))))
    found: dict[str, list[float]] = {s.key: [] for s in subjects}
    for number in range(plan.rounds):
        active = [s for s in subjects if takes_part(number, turns[s.key], plan.rounds)]
        for subject in _turns(active, number, plan, sleep):
            count = repeats[subject.key]
            subject.run(1)
            begin = clock()
            subject.run(count)
            found[subject.key].append((clock() - begin) / count)
    return {key: Times(seconds, repeats[key]) for key, seconds in found.items()}


def takes_part(number: int, turns: int, rounds: int) -> bool:
    """True where a subject with so many turns has one in round ``number`` of ``rounds``: evenly spread."""
    return (number + 1) * turns // rounds > number * turns // rounds


def _once(subject: Subject, clock: Callable[[], float]) -> float:
    """Seconds of one run, after two that load and allocate what is needed."""
    subject.run(2)
    count, spent = 1, 0.0
    while count < 1 << 16:  # a clock cannot tell a single run of a microsecond from noise
        begin = clock()
        subject.run(count)
        spent = clock() - begin
        if spent > 1e-3:
            break
        count *= 4
    return spent / count


def _turns(subjects: Sequence[Subject], number: int, plan: Plan, sleep: Callable[[float], None]) -> Iterator[Subject]:
    """The subjects of one round, pool after pool, each pool's order turned by one: nobody always follows the same one."""
    for pool in dict.fromkeys(s.pool for s in subjects):
        members = [s for s in subjects if s.pool == pool]
        sleep(plan.pause_seconds)
        first = number % len(members)
        yield from members[first:] + members[:first]
