"""What a person sees: drawn over on a terminal, plain lines elsewhere."""

from __future__ import annotations

import io

import pytest

from launcher.terminal import Terminal


class Screen(io.StringIO):
    """A stream that a person looks at."""

    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def plain_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "BERTH_TERMINAL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")


def test_nothing_is_drawn_over_where_nobody_looks() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    with terminal.doing("runtime", "looking") as say:
        say("still looking")
    terminal.step("runtime", "process", 1.25)
    assert stream.getvalue() == "  runtime         process  (1.2 s)\n"


def test_on_a_terminal_the_passing_line_gives_way_to_what_happened() -> None:
    stream = Screen()
    terminal = Terminal(stream)
    with terminal.doing("endpoint", "waiting"):
        terminal.line("Creating 0.1 s")
    terminal.line("ACTIVE")
    text = stream.getvalue()
    assert "waiting …" in text
    assert "\r\033[KCreating 0.1 s\nACTIVE\n" in text


def test_no_color_is_respected(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    stream = Screen()
    Terminal(stream).log("web", "hello")
    assert "\033[" not in stream.getvalue()


def test_a_terminal_that_has_gone_away_is_no_error() -> None:
    stream = io.StringIO()
    terminal = Terminal(stream)
    stream.close()
    terminal.line("nobody reads this")
