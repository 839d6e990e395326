from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [
        ("endpoints", "0004_placement_and_rollouts"),
    ]

    operations = [
        migrations.AddField(
            model_name="replica",
            name="pull_token",
            field=models.CharField(blank=True, default="", max_length=40),
        ),
        migrations.AddField(
            model_name="replica",
            name="pull_until",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="deployphase",
            name="tries",
            field=models.PositiveIntegerField(default=1),
        ),
        migrations.AddField(
            model_name="deployphase",
            name="bytes_per_s",
            field=models.FloatField(default=0),
        ),
        migrations.AddField(
            model_name="deployphase",
            name="bytes_moved_at",
            field=models.DateTimeField(blank=True, null=True),
        ),
        migrations.AddField(
            model_name="deployphase",
            name="layers_waiting",
            field=models.PositiveIntegerField(default=0),
        ),
    ]
