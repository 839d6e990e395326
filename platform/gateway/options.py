"""The agent's command line."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gateway import edge
from gateway.counting import TELL_S
from gateway.edge import Edge


@dataclass(frozen=True, slots=True)
class Options:
    """The command line. tls: certificate and key files in PEM, or None."""

    control: str
    token_file: Path
    home: Path
    host: str
    port: int
    gateway_id: str
    tls: tuple[Path, Path] | None = None
    concurrency: int = 1
    drain_s: float = 3.0
    leave_envoy: bool = False
    tell_s: float = TELL_S
    edge: Edge = field(default_factory=Edge)
    compiled: bool = True


def parse(arguments: Sequence[str]) -> Options:
    """The options of a command line; argparse ends the process with 2 for wrong ones."""
    parser = argparse.ArgumentParser(
        prog="python -m gateway.agent", description="Feeds and watches one Envoy."
    )
    parser.add_argument("--control", required=True, metavar="URL", help="the control plane's address")
    parser.add_argument("--token-file", required=True, type=Path, help="file with the token for --control")
    parser.add_argument("--home", required=True, type=Path, help="this gateway's own directory")
    parser.add_argument("--listen", required=True, metavar="HOST:PORT", help="where clients connect")
    parser.add_argument("--id", required=True, dest="gateway_id", help="name of this gateway, unique")
    parser.add_argument("--tls-cert", type=Path, help="certificate chain, PEM")
    parser.add_argument("--tls-key", type=Path, help="private key, PEM")
    parser.add_argument("--concurrency", type=int, default=os.cpu_count() or 1, help="worker threads")
    parser.add_argument(
        "--drain", type=float, default=3.0, metavar="S", help="seconds for requests in flight at stop"
    )
    parser.add_argument(
        "--tell", type=float, default=TELL_S, metavar="S", help="seconds between two pushes of figures"
    )
    parser.add_argument("--leave-envoy", action="store_true", help="SIGTERM ends the agent only")
    parser.add_argument(
        "--script", action="store_true", help="read usage by the script, also where a C compiler is"
    )
    edge.add_arguments(parser)
    given = parser.parse_args(arguments)
    host, _, port = given.listen.rpartition(":")
    if not host or not port.isdigit() or not 0 < int(port) < 65536:
        parser.error(f"--listen must be HOST:PORT, not {given.listen!r}")
    if (given.tls_cert is None) != (given.tls_key is None):
        parser.error("--tls-cert and --tls-key belong together")
    tls = (given.tls_cert.resolve(), given.tls_key.resolve()) if given.tls_cert else None
    return Options(
        control=given.control,
        token_file=given.token_file.resolve(),
        home=given.home.resolve(),
        host=host.strip("[]"),
        port=int(port),
        gateway_id=given.gateway_id,
        tls=tls,
        concurrency=max(1, given.concurrency),
        compiled=not given.script,
        drain_s=given.drain,
        leave_envoy=given.leave_envoy,
        tell_s=max(0.5, given.tell),
        edge=edge.chosen(given),
    )
