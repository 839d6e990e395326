"""Taking a container's output apart, however the engine's bytes were cut, and finding the place to go on from."""

from __future__ import annotations

import struct
import tracemalloc
from collections.abc import Iterator

import pytest

from runtimes.contract import LOG_LINE_BYTES, LogLine
from runtimes.docker_logs import frames, lines, resumed

TIME = "2026-05-06T07:08:{:02d}.000000001Z"


def frame(content: bytes, stream: int = 1) -> bytes:
    return struct.pack(">BxxxI", stream, len(content)) + content


def test_frames_may_be_cut_anywhere() -> None:
    raw = frame(b"one\n") + frame(b"", 2) + frame(b"two\n", 2)
    for cut in range(len(raw) + 1):
        assert list(frames([raw[:cut], raw[cut:]])) == [b"one\n", b"", b"two\n"]
    assert list(frames(raw[n : n + 1] for n in range(len(raw)))) == [b"one\n", b"", b"two\n"]
    assert list(frames([raw[:-1]])) == [b"one\n", b""], "what the engine did not finish is not told"


def test_the_pieces_of_a_long_line_lose_their_times() -> None:
    first, second = (TIME.format(n).encode() for n in (1, 2))
    found = list(lines([first + b" begin", second + b" end\n", second + b" \n", second + b" open"]))
    assert [line.text for line in found] == ["beginend", "", "open"]
    assert found[0].mark == second.decode()
    assert found[0].at == pytest.approx(1778051282.0)


def test_a_line_without_end_takes_no_memory() -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(4000):
            yield TIME.format(1).encode() + b" " + b"x" * 16384
        yield TIME.format(1).encode() + b" \n"

    tracemalloc.start()
    try:
        (line,) = lines(endless())
        assert tracemalloc.get_traced_memory()[1] < 2_000_000
    finally:
        tracemalloc.stop()
    assert line.text == "x" * LOG_LINE_BYTES


def told(*seconds: int) -> list[LogLine]:
    return [LogLine(str(number), mark=TIME.format(number)) for number in seconds]


def behind(found: list[LogLine], after: int, tail: int = 10) -> list[tuple[str, bool]]:
    return [(line.text, line.gap) for line in resumed(found, tail=tail, after=TIME.format(after))]


def test_it_goes_on_behind_the_mark() -> None:
    assert behind(told(1, 2, 3, 4), 2) == [("3", False), ("4", False)]
    assert behind(told(1, 2), 2) == []
    assert behind(told(2, 2, 3), 2) == [("3", False)], "of lines of one instant none is told twice"


def test_a_tail_that_does_not_reach_back_to_the_mark_has_a_gap() -> None:
    assert behind(told(5, 6), 2) == [("5", True), ("6", False)]


def test_a_clock_that_was_set_back_hides_nothing_for_long() -> None:
    assert behind(told(8, 9, 3, 4), 9) == [("3", False), ("4", False)], "the mark was seen"
    assert behind(told(3, 4, 5, 6), 9, tail=3) == [("6", True)], "a whole tail without it"
