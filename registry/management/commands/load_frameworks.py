"""`manage.py load_frameworks`: the frameworks' files into the database."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError
from django.db import transaction

from iam import audit
from registry.frameworks import DefinitionError, load


class Command(BaseCommand):
    """Safe to run at every start."""

    help = (
        "Loads the framework definitions (registry/frameworks and <BERTH_HOME>/frameworks) into the database."
    )

    @transaction.atomic
    def handle(self, *args: Any, **options: Any) -> None:
        """Load, and say what changed."""
        try:
            loaded = load()
        except DefinitionError as error:
            raise CommandError(f"A framework definition is wrong. {error}") from error
        outcome = {"added": loaded.created, "updated": loaded.changed}
        if loaded.created or loaded.changed:
            audit.record(audit.Command("load_frameworks"), "framework.load", kind="framework", after=outcome)
        for word, slugs in outcome.items():
            if slugs:
                self.stdout.write(f"frameworks {word}: {', '.join(slugs)}")
