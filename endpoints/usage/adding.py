"""Adding to rows that count: one statement a row, so that two that add to the same one lose nothing."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from django.db import connection, transaction
from django.db.models import CharField, Field, IntegerField, Model
from django.db.models.fields import AutoFieldMixin

from endpoints.models import ReplicaTime, Usage
from endpoints.usage.sums import outdate


def add(
    model: type[Model],
    rows: Iterable[Mapping[str, Any]],
    *,
    key: Sequence[str],
    summed: Sequence[str],
    latest: Sequence[str] = (),
    newest_by: str = "",
) -> None:
    """Add each of `rows` ({field: value}) to the row with the same `key`, made if it is not there yet.

    key      the fields of a unique constraint
    summed   fields whose values are added up; Django's own `bulk_create` can only replace them
    latest   fields that take the value of the row that comes last; any other keeps its first one
    newest_by  a field: a row in which it is not greater than what is there changes nothing

    A field that a row leaves out has its default. Sums of usage that these rows change count no more from then on.

    Raises DatabaseError. Call it in a transaction if all or nothing shall be added.
    """
    wanted = sorted(
        rows, key=lambda row: [str(row[name]) for name in key]
    )  # in one order: nobody waits in a ring
    if not wanted:
        return
    quote, table = connection.ops.quote_name, model._meta.db_table
    fields: list[Field[Any, Any]] = [
        field for field in model._meta.concrete_fields if not isinstance(field, AutoFieldMixin)
    ]
    columns = [quote(str(field.column)) for field in fields]
    named = {field.name: quote(str(field.column)) for field in fields}
    changes = [f"{named[name]} = {quote(table)}.{named[name]} + EXCLUDED.{named[name]}" for name in summed]
    changes += [f"{named[name]} = EXCLUDED.{named[name]}" for name in latest]
    only = f" WHERE EXCLUDED.{named[newest_by]} > {quote(table)}.{named[newest_by]}" if newest_by else ""
    # The names are the models' own, the values are parameters.
    statement = (
        f"INSERT INTO {quote(table)} ({', '.join(columns)}) VALUES ({', '.join(['%s'] * len(columns))}) "  # noqa: S608
        f"ON CONFLICT ({', '.join(named[name] for name in key)}) DO UPDATE SET {', '.join(changes)}{only}"
    )
    values = [[_stored(field, row) for field in fields] for row in wanted]
    with transaction.atomic(savepoint=False), connection.cursor() as cursor:
        if model in (Usage, ReplicaTime):
            outdate(wanted)
        cursor.executemany(statement, values)


def _stored(field: Field[Any, Any], row: Mapping[str, Any]) -> Any:
    value = row[field.name] if field.name in row else field.get_default()
    if type(value) in (int, str) and isinstance(field, CharField | IntegerField):
        return value  # as it is: Django's way there takes longer than the database
    return field.get_db_prep_save(value, connection=connection)
