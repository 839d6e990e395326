"""That something has changed of which the gateways are told."""

from __future__ import annotations

from django.db import models


class Change(models.Model):
    """Written in the transaction of the change, so that neither is there without the other; what it was is not said.

    Rows are added and, when they are old, removed (endpoints.changes).
    """

    at = models.DateTimeField(auto_now_add=True)

    def __str__(self) -> str:
        return f"{self.at}"
