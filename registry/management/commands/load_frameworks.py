"""`manage.py load_frameworks`: the frameworks' files into the database."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError

from registry.frameworks import DefinitionError, load


class Command(BaseCommand):
    """Safe to run at every start."""

    help = (
        "Loads the framework definitions (registry/frameworks and <BERTH_HOME>/frameworks) into the database."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Load, and say what changed."""
        try:
            loaded = load()
        except DefinitionError as error:
            raise CommandError(f"A framework definition is wrong. {error}") from error
        for word, slugs in (("added", loaded.created), ("updated", loaded.changed)):
            if slugs:
                self.stdout.write(f"frameworks {word}: {', '.join(slugs)}")
