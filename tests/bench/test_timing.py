"""How turns are taken, with a clock that is made up."""

from __future__ import annotations

from itertools import pairwise

import pytest

from opau_onnx.bench.timing import Plan, Subject, measure, takes_part


class World:
    """A clock that moves only when a subject runs; notes who ran."""

    def __init__(self) -> None:
        self.now = 0.0
        self.ran: list[tuple[str, int]] = []
        self.pauses = 0

    def subject(self, key: str, seconds: float, pool: str = "one") -> Subject:
        def run(count: int) -> None:
            self.ran.append((key, count))
            self.now += seconds * count

        return Subject(key, key, "made up", pool, run)

    def clock(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds
        self.pauses += 1


def test_times_are_of_one_run_whatever_the_repeats() -> None:
    world = World()
    subjects = [world.subject("fast", 1e-6), world.subject("slow", 1e-2)]
    found = measure(subjects, Plan(rounds=4, sample_seconds=1e-3), clock=world.clock, sleep=world.sleep)
    assert found["fast"].seconds == pytest.approx([1e-6] * 4)
    assert found["fast"].repeats == pytest.approx(1000, abs=1)
    assert found["slow"].seconds == pytest.approx([1e-2] * 4)
    assert found["slow"].repeats == 1


def test_subjects_take_turns_and_none_always_follows_the_same() -> None:
    world = World()
    subjects = [world.subject(key, 1.0) for key in "abc"]
    measure(subjects, Plan(rounds=3, subject_seconds=100.0), clock=world.clock, sleep=world.sleep)
    turns = [key for key, _ in world.ran][-18:]  # each turn: one run uncounted, one counted
    assert turns[::2] == list("abcbcacab")


def test_a_turn_starts_with_an_uncounted_run() -> None:
    world = World()
    measure([world.subject("a", 2**-13)], Plan(rounds=1, sample_seconds=2**-10), clock=world.clock, sleep=world.sleep)
    assert [count for _, count in world.ran[-2:]] == [1, 8]


def test_pools_follow_each_other_with_a_pause_between() -> None:
    world = World()
    subjects = [world.subject("a", 1.0), world.subject("b", 1.0, "two"), world.subject("c", 1.0)]
    measure(subjects, Plan(rounds=1), clock=world.clock, sleep=world.sleep)
    assert [key for key, _ in world.ran][-6::2] == ["a", "c", "b"]
    assert world.pauses == 4  # two for the first estimates, two in the round


def test_slow_subjects_get_fewer_turns() -> None:
    world = World()
    plan = Plan(rounds=20, subject_seconds=4.0, fewest=5)
    found = measure([world.subject("slow", 10.0), world.subject("fast", 0.01)], plan, clock=world.clock, sleep=world.sleep)
    assert len(found["slow"].seconds) == 5
    assert len(found["fast"].seconds) == 20


@pytest.mark.parametrize(("turns", "rounds"), [(1, 1), (5, 20), (7, 15), (15, 15), (1, 9)])
def test_turns_are_spread_evenly(turns: int, rounds: int) -> None:
    taken = [n for n in range(rounds) if takes_part(n, turns, rounds)]
    assert len(taken) == turns
    assert max((b - a for a, b in pairwise(taken)), default=0) <= rounds / turns + 1


def test_a_run_that_takes_no_time_does_not_repeat_for_ever() -> None:
    world = World()
    found = measure([world.subject("a", 0.0)], Plan(rounds=1, sample_seconds=1e-6), clock=world.clock, sleep=world.sleep)
    assert found["a"].seconds == [0.0]
