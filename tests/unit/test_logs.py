"""What production logs look like."""

from __future__ import annotations

import json
import logging
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from config.logs import JsonFormatter
from config.settings import production
from gateway import logs
from tests.support_processes import PYTHONPATH


def test_production_writes_one_json_object_a_line() -> None:
    assert production.LOGGING["formatters"]["plain"] == {"()": "config.logs.JsonFormatter"}
    try:
        raise ValueError("two\nlines")
    except ValueError:
        record = logging.LogRecord(
            "berth", logging.ERROR, __file__, 1, "%s failed\nbadly", ("it",), sys.exc_info()
        )
    line = JsonFormatter().format(record)
    assert "\n" not in line
    entry = json.loads(line)
    assert (entry["level"], entry["logger"], entry["message"]) == ("error", "berth", "it failed\nbadly")
    assert "ValueError" in entry["traceback"]
    assert entry["time"].endswith("+00:00")
    assert logs.JsonLines().format(record) == line


@pytest.mark.parametrize("form", ["json", "plain"])
def test_the_parts_without_django_write_likewise(form: str, tmp_path: Path) -> None:
    """An activator that finds its address taken says so, and ends."""
    assert production.BERTH_LOG_JSON
    token = tmp_path / "token"
    token.write_text("x")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        command = [sys.executable, "-m", "activator", "--listen", address, "--control", "http://127.0.0.1:1"]
        command += ["--token-file", str(token), "--id", "x"]
        env = {**os.environ, "PYTHONPATH": PYTHONPATH, logs.FORMAT_VARIABLE: form}
        done = subprocess.run(command, env=env, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 3, done.stderr
    (line,) = [one for one in done.stdout.splitlines() if address in one]
    if form == "json":
        entry = json.loads(line)
        assert (entry["level"], entry["logger"]) == ("error", "activator")
    else:
        assert " ERROR activator " in line
