"""The database itself refuses to change or remove rows of the audit log, whoever asks.

Dropping the triggers stays with whoever owns the database (TRUNCATE and SQLite's REPLACE: 0005). SQLite drops them with a
table that a later migration rebuilds: a migration that alters this table has to put them back (`TRIGGERS`).
"""

from django.db import migrations

TRIGGERS = {
    "sqlite": (
        """CREATE TRIGGER iam_auditevent_no_update BEFORE UPDATE ON iam_auditevent
        BEGIN SELECT RAISE(ABORT, 'The audit log is append-only.'); END""",
        """CREATE TRIGGER iam_auditevent_no_delete BEFORE DELETE ON iam_auditevent
        BEGIN SELECT RAISE(ABORT, 'The audit log is append-only.'); END""",
    ),
    "postgresql": (
        """CREATE FUNCTION iam_auditevent_refuse() RETURNS trigger LANGUAGE plpgsql
        AS $$ BEGIN RAISE EXCEPTION 'The audit log is append-only.'; END $$""",
        """CREATE TRIGGER iam_auditevent_no_change BEFORE UPDATE OR DELETE ON iam_auditevent
        FOR EACH ROW EXECUTE FUNCTION iam_auditevent_refuse()""",
    ),
}
GONE = {
    "sqlite": ("DROP TRIGGER iam_auditevent_no_update", "DROP TRIGGER iam_auditevent_no_delete"),
    "postgresql": (
        "DROP TRIGGER iam_auditevent_no_change ON iam_auditevent",
        "DROP FUNCTION iam_auditevent_refuse()",
    ),
}


def put(apps, schema_editor):
    for statement in TRIGGERS.get(schema_editor.connection.vendor, ()):
        schema_editor.execute(statement, params=None)


def remove(apps, schema_editor):
    for statement in GONE.get(schema_editor.connection.vendor, ()):
        schema_editor.execute(statement, params=None)


class Migration(migrations.Migration):
    dependencies = [("iam", "0003_identities_and_audit")]

    operations = [migrations.RunPython(put, remove)]
