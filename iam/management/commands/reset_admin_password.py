"""`manage.py reset_admin_password [email]`: a way back in."""

from __future__ import annotations

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from iam.models import User
from iam.setup import reset_admin_password


class Command(BaseCommand):
    """Prints the new password once; it ends the sessions that were open with the old one."""

    help = "Give an admin (by default the first one) a new random password and print it once."

    def add_arguments(self, parser: CommandParser) -> None:
        """Whose password, and what else."""
        parser.add_argument("email", nargs="?", help="the admin's email address")
        parser.add_argument(
            "--remove-second-factors",
            action="store_true",
            help="also remove the authenticator app, passkeys and recovery codes, for whoever has lost them",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Reset and print."""
        try:
            email, password = reset_admin_password(
                options["email"], remove_second_factors=options["remove_second_factors"]
            )
        except User.DoesNotExist as error:
            raise CommandError("There is no such admin. `make up` makes the first one.") from error
        self.stdout.write(f"email     {email}\npassword  {password}")
