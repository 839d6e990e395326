"""What the management API reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import IO, Any, NoReturn

from django.conf import settings
from django.utils.translation import gettext as _
from rest_framework.exceptions import ParseError
from rest_framework.parsers import JSONParser as DrfJSONParser


class JSONParser(DrfJSONParser):
    """JSON whose texts can be stored and answered: DRF's lets halves of surrogate pairs pass ("\\ud800", which is no
    character), and any error message that repeats one could not be written. What is nested too deep is refused as
    well; both would be a 500."""

    def parse(
        self, stream: IO[Any], media_type: str | None = None, parser_context: Mapping[str, Any] | None = None
    ) -> Any:
        """The value. Raises ParseError."""
        encoding = (parser_context or {}).get("encoding", settings.DEFAULT_CHARSET)
        try:
            text = stream.read().decode(encoding)
            value = json.loads(text, parse_constant=_no_number)
            if "\\u" in text:
                json.dumps(value, ensure_ascii=False).encode()
        except RecursionError as error:
            raise ParseError(_("The body is nested too deep.")) from error
        except (
            ValueError,
            LookupError,
        ) as error:  # UnicodeError is a ValueError; LookupError: an unknown encoding
            raise ParseError(_("The body is no valid JSON: %(error)s.") % {"error": _words(error)}) from error
        return value


def _no_number(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _words(error: Exception) -> str:
    if isinstance(error, UnicodeEncodeError):
        return "it contains half of a surrogate pair"
    return str(error).encode(errors="replace").decode()
