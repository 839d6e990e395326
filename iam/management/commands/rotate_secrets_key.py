"""`manage.py rotate_secrets_key`: change the keys of what is stored encrypted or hashed, while the platform runs."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from config import reencryption
from iam import audit
from iam.oauth import hashers


class Command(BaseCommand):
    """Hub tokens, registry passwords, environments and second factors are encrypted; client secrets are hashed."""

    help = (
        "Put a new key on top of keys/secrets.key and put every stored secret under it. "
        "With --drop-old: remove the keys that nothing needs any more."
    )

    def add_arguments(self, parser: CommandParser) -> None:
        """New keys, only the work of an interrupted run, or the end of old keys."""
        parser.add_argument(
            "--resume", action="store_true", help="no new key: finish what a run before began"
        )
        parser.add_argument(
            "--drop-old",
            action="store_true",
            help="remove old keys, after checking that nothing needs them; backups of the database from before "
            "can't be read without them",
        )
        parser.add_argument(
            "--client-secrets",
            action="store_true",
            help="change the key of keys/client_secrets.key instead; secrets made before keep the old one until "
            "they are replaced",
        )

    def handle(self, *args: Any, **options: Any) -> None:
        """Do it and say what was done."""
        if options["client_secrets"]:
            self._client_secrets(drop=options["drop_old"])
            return
        if not options["drop_old"] and not options["resume"]:
            count = reencryption.put_new_key()
            self._note("create", "secrets.key")
            self.stdout.write(
                f"A new key is on top of keys/secrets.key; {count} are in it. Back the file up."
            )
        self._reencrypt()
        if options["drop_old"]:
            self._drop()

    def _reencrypt(self) -> None:
        for place in reencryption.places():
            tally = reencryption.reencrypt(place)
            self.stdout.write(f"{place}: {tally.present} secrets, {tally.renewed} put under the new key.")
            if tally.lost:
                rows = ", ".join(str(key) for key in tally.lost)
                self.stderr.write(f"{place}: no present key fits the secrets of {rows}. Enter them again.")

    def _drop(self) -> None:
        wait = reencryption.settled_in(datetime.now(UTC)).total_seconds()
        if wait:
            self.stdout.write(f"Waiting {wait:.0f} s for what began under the old key …")
            time.sleep(wait)
            self._reencrypt()
        try:
            dropped = reencryption.drop_old_keys()
        except reencryption.KeysNeeded as error:
            raise CommandError(str(error)) from error
        self._note("delete", "secrets.key", dropped)
        self.stdout.write(f"Removed {dropped} old keys." if dropped else "There is no old key.")

    def _client_secrets(self, *, drop: bool) -> None:
        if not drop:
            count = hashers.put_new_key()
            self._note("create", "client_secrets.key")
            self.stdout.write(
                f"New client secrets are hashed with a new key; {count} keys are in use or kept."
            )
            return
        dropped, needed = hashers.drop_unused_keys()
        self._note("delete", "client_secrets.key", dropped)
        self.stdout.write(f"Removed {dropped} old keys.")
        if needed:
            self.stdout.write(
                f"Kept {len(needed)}: {sum(needed.values())} client secrets and invitations still need them. "
                "Replace those secrets, then run this again."
            )

    @staticmethod
    def _note(what: str, file: str, count: int = 1) -> None:
        if count:
            audit.record(
                audit.Command("rotate_secrets_key"), f"secrets_key.{what}", kind="secrets_key", name=file
            )
