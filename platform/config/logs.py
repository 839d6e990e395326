"""Structured logs: one JSON object a line, each with the request that it is about."""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime

from iam.origin import origin


class RequestId(logging.Filter):
    """Sets `request_id` on every record: of the request, or of the task that one caused; "" outside of both."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets everything pass."""
        record.request_id = origin.get().request_id
        return True


class JsonFormatter(logging.Formatter):
    """Time (UTC, ISO 8601), level, logger, message and, where there is one, the request's id and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        """One line of JSON."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if request_id := getattr(record, "request_id", ""):
            entry["request_id"] = request_id
        if record.exc_info:
            entry["traceback"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)
