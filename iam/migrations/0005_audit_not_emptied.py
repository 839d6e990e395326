"""The two ways past the triggers of 0004: PostgreSQL empties a table by TRUNCATE without looking at its rows, and SQLite
replaces rows by `INSERT OR REPLACE` without calling that a deletion.

Dropping the triggers stays with whoever owns the database. A migration that alters this table has to put these back
on SQLite, as those of 0004 (`TRIGGERS`).
"""

from django.db import migrations

TRIGGERS = {
    # A new row has no id yet when the trigger looks at it: SQLite shows -1.
    "sqlite": (
        """CREATE TRIGGER iam_auditevent_no_replace BEFORE INSERT ON iam_auditevent
        WHEN NEW.id > 0 AND EXISTS (SELECT 1 FROM iam_auditevent WHERE id = NEW.id)
        BEGIN SELECT RAISE(ABORT, 'The audit log is append-only.'); END""",
    ),
    "postgresql": (
        """CREATE TRIGGER iam_auditevent_no_truncate BEFORE TRUNCATE ON iam_auditevent
        FOR EACH STATEMENT EXECUTE FUNCTION iam_auditevent_refuse()""",
    ),
}
GONE = {
    "sqlite": ("DROP TRIGGER iam_auditevent_no_replace",),
    "postgresql": ("DROP TRIGGER iam_auditevent_no_truncate ON iam_auditevent",),
}


def put(apps, schema_editor):
    for statement in TRIGGERS.get(schema_editor.connection.vendor, ()):
        schema_editor.execute(statement, params=None)


def remove(apps, schema_editor):
    for statement in GONE.get(schema_editor.connection.vendor, ()):
        schema_editor.execute(statement, params=None)


class Migration(migrations.Migration):
    dependencies = [("iam", "0004_audit_append_only")]

    operations = [migrations.RunPython(put, remove)]
