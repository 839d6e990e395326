"""Positions are of logs, not of gateways: a gateway that lost its home begins another one. What is counted already stays
counted: until now each file had a name of its own where its log's stands from now on."""

from typing import Any

from django.db import migrations, models


def keep(apps: Any, _editor: Any) -> None:
    old, new = (apps.get_model("endpoints", name) for name in ("OldLogPosition", "LogPosition"))
    for row in old.objects.exclude(file=""):
        log = row.file.removesuffix(".log").rpartition("-")[2]
        new.objects.create(gateway=row.gateway, log=log, file=row.file, offset=row.offset)


class Migration(migrations.Migration):
    dependencies = [
        ("endpoints", "0011_sums_of_days"),
    ]

    operations = [
        migrations.RenameModel("LogPosition", "OldLogPosition"),
        migrations.CreateModel(
            name="LogPosition",
            fields=[
                (
                    "id",
                    models.BigAutoField(
                        auto_created=True, primary_key=True, serialize=False, verbose_name="ID"
                    ),
                ),
                ("gateway", models.CharField(max_length=100)),
                ("log", models.CharField(max_length=100)),
                ("file", models.CharField(max_length=100)),
                ("offset", models.PositiveBigIntegerField(default=0)),
                ("updated_at", models.DateTimeField(auto_now=True)),
            ],
            options={
                "constraints": [models.UniqueConstraint(fields=("gateway", "log"), name="log_position_once")],
            },
        ),
        migrations.RunPython(keep, migrations.RunPython.noop),
        migrations.DeleteModel("OldLogPosition"),
        migrations.RemoveConstraint("TokenCount", "token_count_once"),
        migrations.AddConstraint(
            "TokenCount",
            models.UniqueConstraint(fields=("window", "subject", "gateway"), name="token_count_once"),
        ),
    ]
