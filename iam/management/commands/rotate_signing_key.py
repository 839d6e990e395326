"""`manage.py rotate_signing_key`: change the key that signs access tokens, without a refused request."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from iam.oauth import keys


class Command(BaseCommand):
    """Publishes a new key now and lets it sign a few minutes later, when everyone who checks tokens knows it."""

    help = "Make a new signing key for access tokens and remove those whose tokens have all expired."

    def add_arguments(self, parser: CommandParser) -> None:
        """Two ways to be quicker."""
        parser.add_argument("--now", action="store_true", help="the new key signs at once")
        parser.add_argument(
            "--compromised",
            action="store_true",
            help="a key was stolen: the new one signs at once and all others are removed; "
            "every token issued so far stops working",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Rotate and say what was done."""
        now = datetime.now(UTC).replace(microsecond=0)
        keys.published_keys()  # an installation without keys gets its first one beside the new one
        at_once = options["now"] or options["compromised"]
        new = keys.add_key(now if at_once else now + keys.OVERLAP)
        self.stdout.write(
            f"New key {new.kid} is published and signs from {new.signs_from:%Y-%m-%d %H:%M:%S} UTC."
        )
        removed = keys.revoke_other_keys(new) if options["compromised"] else keys.retire_keys(now)
        for key in removed:
            self.stdout.write(f"Removed key {key.kid}.")
