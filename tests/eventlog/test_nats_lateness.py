"""For how long what has come waits to be taken: ``eventlog.nats.lateness``."""

from archibald_rt.eventlog.nats.lateness import Lateness


class Clock:
    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_nothing_is_late_where_nothing_waits() -> None:
    clock = Clock()
    lateness = Lateness(clock)
    assert lateness.seconds == 0
    lateness.there(3)
    clock.now += 5
    lateness.taken(3)
    clock.now += 5
    assert lateness.seconds == 0


def test_what_waits_is_late_since_it_was_there() -> None:
    clock = Clock()
    lateness = Lateness(clock)
    lateness.there(2)
    clock.now += 4
    assert lateness.seconds == 4
    lateness.there(9)
    lateness.taken(1)
    clock.now += 1
    assert lateness.seconds == 5


def test_what_is_taken_in_time_is_not_late_though_more_comes_all_the_time() -> None:
    clock = Clock()
    lateness = Lateness(clock)
    for count in range(100):
        lateness.there(count + 2)
        clock.now += 1
        lateness.taken(count)
        assert lateness.seconds <= 3


def test_what_is_not_to_come_after_all_is_not_late() -> None:
    clock = Clock()
    lateness = Lateness(clock)
    lateness.there(9)
    lateness.taken(4)
    lateness.there(4)
    clock.now += 9
    assert lateness.seconds == 0
    lateness.there(5)
    clock.now += 1
    assert lateness.seconds == 1
