"""A port that cannot be had is one line with the way out."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from launcher import ports


def test_a_free_port_is_fine() -> None:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    ports.check("console", "127.0.0.1", port, "BERTH_PORT")


def test_a_taken_port_names_its_holder_and_the_variable() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        name = Path(f"/proc/{os.getpid()}/comm").read_text().strip()
        with pytest.raises(ports.PortError) as raised:
            ports.check("console", "127.0.0.1", port, "BERTH_PORT")
    assert str(raised.value) == (
        f"Port {port}, which the console needs, is taken by {name} (pid {os.getpid()}). "
        f"Stop that, or choose another port: BERTH_PORT={port + 1}"
    )


def test_an_address_of_another_machine_is_explained() -> None:
    with pytest.raises(ports.PortError, match=r"cannot listen on 203\.0\.113\.7:18080 .* Check BERTH_BIND"):
        ports.check("gateway", "203.0.113.7", 18080, "BERTH_GATEWAY_PORT")


def test_a_holder_on_ipv6_is_found() -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as taken:
        assert ports.holder(taken.getsockname()[1]) == os.getpid()


def test_a_process_of_another_home_is_not_ours() -> None:
    assert not ports.serves_home(os.getpid(), "/nowhere")
