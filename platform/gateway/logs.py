"""How the agent and the activator write their logs: lines for people, or one JSON object a line as web's in production.

They have no Django and none of its settings: BERTH_LOG_FORMAT=json says so, which `manage.py up` sets.
"""

from __future__ import annotations

import json
import logging
import os
import sys
from datetime import UTC, datetime

FORMAT_VARIABLE = "BERTH_LOG_FORMAT"
_PLAIN = "%(asctime)s %(levelname)s %(name)s %(message)s"


class JsonLines(logging.Formatter):
    """Time (UTC, ISO 8601), level, logger, message, and the traceback where there is one: config.logs' fields."""

    def format(self, record: logging.LogRecord) -> str:
        """One line."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def to_stdout() -> None:
    """From now on this process' log goes there."""
    handler = logging.StreamHandler(sys.stdout)
    is_json = os.environ.get(FORMAT_VARIABLE) == "json"
    handler.setFormatter(JsonLines() if is_json else logging.Formatter(_PLAIN))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
