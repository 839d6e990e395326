"""What a person sees in the terminal: one aligned line for each thing that happened, with the time it took."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TextIO

NAME_WIDTH = 10
COLOURS = {
    "berth": "1",
    "redis": "31",
    "web": "34",
    "worker": "32",
    "transfers": "36",
    "beat": "90",
    "watcher": "35",
    "gateway": "33",
    "activator": "95",
    "demo": "1",
}


# Told to a process whose output the front passes on unchanged: it writes to a pipe, but a person looks at it.
SEEN_BY = "BERTH_TERMINAL"


def is_live(stream: TextIO) -> bool:
    """Whether a person looks at it, so that a line may be drawn over."""
    return stream.isatty() or SEEN_BY in os.environ


def wants_colour(stream: TextIO) -> bool:
    """Colour on a terminal only, and never against NO_COLOR (no-color.org)."""
    return is_live(stream) and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


class Terminal:
    """Writes whole lines; a terminal that has gone away is no reason to stop the platform."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self.stream = stream or sys.stdout
        self.colour = wants_colour(self.stream)
        self.live = is_live(self.stream)
        self.drawn = False  # a line that `doing` draws over stands there now

    def paint(self, text: str, code: str) -> str:
        """`text` in an ANSI colour, where colour is wanted."""
        return f"\033[{code}m{text}\033[0m" if self.colour and code and text else text

    def write(self, text: str) -> None:
        """Pass `text` on as it is."""
        try:
            self.stream.write(text)
            self.stream.flush()
        except (OSError, ValueError):
            self.live = self.colour = False

    def line(self, text: str = "") -> None:
        """One plain line, in the place of one that is being drawn over."""
        self.write(f"\r\033[K{text}\n" if self.drawn else f"{text}\n")
        self.drawn = False

    def step(self, name: str, text: str, seconds: float | None = None) -> None:
        """One finished step of set-up: its name, its outcome, and how long it took if that is worth a word."""
        took = f"  ({seconds:.1f} s)" if seconds is not None and seconds >= 0.1 else ""
        self.line(f"  {self.paint(f'{name:<15}', '1')} {text}{self.paint(took, '90')}")

    @contextmanager
    def doing(self, name: str, text: str) -> Iterator[Callable[[str], None]]:
        """Show what is being done while it is being done; gives a function that changes the text.

        The line disappears afterwards, and is never written where nobody looks.
        """

        def show(now: str) -> None:
            if self.live:
                self.drawn = True
                self.write(f"\r\033[K  {self.paint(f'{name:<15}', '1')} {self.paint(now + ' …', '90')}")

        show(text)
        try:
            yield show
        finally:
            if self.drawn:
                self.write("\r\033[K")
                self.drawn = False

    def log(self, name: str, text: str) -> None:
        """One line of a process's log, or about a process (`berth`)."""
        clock = self.paint(time.strftime("%H:%M:%S"), "90")
        label = self.paint(f"{name:<{NAME_WIDTH}}", COLOURS.get(name, "1"))
        self.line(f"{clock} {label} {text}")
