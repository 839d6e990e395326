"""`python -m activator --listen unix:PATH|HOST:PORT --control URL --token-file F --id NAME`.

SIGTERM and SIGINT end it: answers under way get a few seconds, requests that wait are let go of, so that their
gateways send them again to the next activator. Exit status: 0 after a signal, 2 for wrong arguments, 3 if the address
is taken.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import sys
from collections.abc import Sequence
from pathlib import Path

from activator.app import Activator, AddressTaken, Options
from activator.lines import Limits
from gateway import logs

EXIT_TAKEN = 3


def parse(arguments: Sequence[str]) -> Options:
    """The options of a command line; argparse ends the process with 2 for wrong ones."""
    parser = argparse.ArgumentParser(
        prog="python -m activator", description="Holds requests until replicas wake."
    )
    parser.add_argument("--listen", required=True, metavar="ADDRESS", help="unix:/path or HOST:PORT")
    parser.add_argument("--control", required=True, metavar="URL", help="the control plane's address")
    parser.add_argument("--token-file", required=True, type=Path, help="file with the gateways' token")
    parser.add_argument("--id", required=True, dest="name", help="name of this activator, unique")
    parser.add_argument("--hold-timeout", type=float, default=300.0, metavar="S", help="longest wait")
    parser.add_argument("--each", type=int, default=1000, help="requests that may wait for one endpoint")
    parser.add_argument("--total", type=int, default=5000, help="requests that may wait altogether")
    parser.add_argument("--size", type=int, default=64 * 1024 * 1024, help="bytes kept of all of them")
    parser.add_argument("--silent", type=float, default=5.0, metavar="S", help="before a stream's first word")
    parser.add_argument("--word-every", type=float, default=3.0, metavar="S", help="between two of them")
    given = parser.parse_args(arguments)
    if not given.listen.startswith("unix:") and not given.listen.rpartition(":")[2].isdigit():
        parser.error(f"--listen must be unix:/path or HOST:PORT, not {given.listen!r}")
    limits = Limits(max(1, given.each), max(1, given.total), given.size, given.hold_timeout)
    return Options(
        given.listen,
        given.control,
        given.token_file.resolve(),
        given.name,
        limits,
        given.silent,
        given.word_every,
    )


def main() -> int:
    """The process."""
    logs.to_stdout()
    options = parse(sys.argv[1:])
    try:
        asyncio.run(Activator(options).run())
    except AddressTaken as taken:
        logging.getLogger("activator").error("%s: stop that program or choose another address", taken)
        return EXIT_TAKEN
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
