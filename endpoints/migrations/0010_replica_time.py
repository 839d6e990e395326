from django.db import migrations, models
from django.db.models.functions import Coalesce, Now


def count_from_now(apps, schema_editor):
    """Replicas that run already are counted from their start."""
    replicas = apps.get_model("endpoints", "Replica").objects.filter(claimed=True, ended_at=None)
    replicas.update(counted_until=Coalesce("started_at", Now()))


class Migration(migrations.Migration):
    dependencies = [
        ("endpoints", "0009_usage_and_limits"),
    ]

    operations = [
        migrations.RemoveConstraint(
            model_name="replicatime",
            name="replica_time_once_an_hour",
        ),
        migrations.AddField(
            model_name="replica",
            name="counted_until",
            field=models.DateTimeField(blank=True, editable=False, null=True),
        ),
        migrations.AddIndex(
            model_name="replica",
            index=models.Index(
                condition=models.Q(("counted_until", None), _negated=True),
                fields=["counted_until"],
                name="replica_to_count",
            ),
        ),
        migrations.AddIndex(
            model_name="replicatime",
            index=models.Index(fields=["endpoint_id", "hour"], name="replica_time_of_endpoint"),
        ),
        migrations.AddIndex(
            model_name="usage",
            index=models.Index(fields=["endpoint_id", "hour"], name="usage_of_endpoint"),
        ),
        migrations.AddConstraint(
            model_name="replicatime",
            constraint=models.UniqueConstraint(
                fields=("hour", "endpoint_id", "model_id", "instance_type", "price_month", "currency"),
                name="replica_time_once_an_hour",
            ),
        ),
        migrations.RunPython(count_from_now, migrations.RunPython.noop),
    ]
