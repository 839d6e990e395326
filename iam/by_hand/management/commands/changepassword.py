"""`manage.py changepassword`, on record."""

from __future__ import annotations

import getpass
from typing import Any

from django.contrib.auth.management.commands import changepassword

from iam import audit
from iam.models import User


class Command(changepassword.Command):
    """Django's."""

    def handle(self, *args: Any, **options: Any) -> str | None:
        """It raises where nothing was changed."""
        said = super().handle(*args, **options)
        user = User.objects.get(email=options["username"] or getpass.getuser())
        audit.record(audit.Command("changepassword"), "password.reset", user)
        return said
