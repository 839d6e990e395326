"""`manage.py rotate_signing_key`: change the keys that sign tokens, without a refused request."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandParser

from iam import audit
from iam.oauth import key_rotation
from iam.oauth.keys import OVERLAP, Ring


class Command(BaseCommand):
    """Publishes a new key now and lets it sign a few minutes later, when everyone who checks tokens knows it."""

    help = (
        "Make a new signing key for access tokens and remove those whose tokens have all expired. The clock does the "
        "same every BERTH_SIGNING_KEY_DAYS days."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """Which keys, and two ways to be quicker."""
        parser.add_argument("--api-keys", action="store_true", help="the keys that sign API keys instead")
        parser.add_argument(
            "--now",
            action="store_true",
            help="the new key signs as soon as the gateways know it, which other verifiers may not yet",
        )
        parser.add_argument(
            "--compromised",
            action="store_true",
            help="a key was stolen: the new one signs at once and all others are removed; "
            "everything that they signed stops working",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Rotate and say what was done."""
        ring = Ring.API_KEYS if options["api_keys"] else Ring.ACCESS
        now = datetime.now(UTC).replace(microsecond=0)
        if options["compromised"]:
            new, removed = key_rotation.replace_all(ring, now)
        else:
            new = key_rotation.rotate(ring, now, key_rotation.SOON if options["now"] else OVERLAP)
            removed = key_rotation.retire(ring, now)
        key_rotation.note(audit.Command("rotate_signing_key"), ring, [new], removed)
        self.stdout.write(
            f"New key {new.kid} is published and signs from {new.signs_from:%Y-%m-%d %H:%M:%S} UTC."
        )
        for key in removed:
            self.stdout.write(f"Removed key {key.kid}.")
