"""What production logs look like."""

from __future__ import annotations

import json
import logging
import sys

from config.logs import JsonFormatter
from config.settings import production


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
