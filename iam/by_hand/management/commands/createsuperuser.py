"""`manage.py createsuperuser`, on record."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.management.commands import createsuperuser

from iam import audit
from iam.models import User


class Command(createsuperuser.Command):
    """Django's."""

    def handle(self, *args: Any, **options: Any) -> None:
        """Not in one transaction with the record: SQLite would hold its lock while somebody types a password."""
        known = set(User.objects.values_list("pk", flat=True))
        super().handle(*args, **options)
        for user in User.objects.filter(is_superuser=True).exclude(pk__in=known):
            after = {"email": user.email, "is_superuser": True}
            audit.record(audit.Command("createsuperuser"), "user.create", user, after=after)
