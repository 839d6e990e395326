"""What a write of the management API may name: a name that nobody knows is an error, never passed over in silence."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping
from typing import Any, ClassVar

from django.utils.translation import gettext as _
from rest_framework import serializers

_TOLD = 20  # unknown names in one answer
_LONGEST = 80


class KnownFields(serializers.Serializer[Any]):
    """Base of everything that reads a body: a limit with a typing error in it would be no limit.

    Whoever sends back what they got is understood: fields that are read-only, and those in `answered`, are ignored.

    answered  names that answers about the same thing have besides the serializer's own fields
    """

    answered: ClassVar[Collection[str]] = ()

    def to_internal_value(self, data: Any) -> Any:
        """As usual. Raises ValidationError that names each unknown field, and the nearest known ones."""
        if isinstance(data, Mapping):
            unknown = sorted(
                str(name) for name in data if name not in self.fields and name not in self.answered
            )
            if unknown:
                raise serializers.ValidationError(
                    {name[:_LONGEST]: [self._sentence(name[:_LONGEST])] for name in unknown[:_TOLD]}
                )
        return super().to_internal_value(data)

    def _sentence(self, name: str) -> str:
        known = [field for field, shape in self.fields.items() if not shape.read_only]
        near = difflib.get_close_matches(name, known, n=3)
        if near:
            return _("There is no such field. Nearest to it: %(names)s.") % {"names": ", ".join(near)}
        return _("There is no such field. Known are: %(names)s.") % {"names": ", ".join(known)}
