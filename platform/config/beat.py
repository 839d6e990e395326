"""The clock's Celery application: the schedule and the broker, and none of the apps.

The clock only names tasks, it never runs them. Without the apps it holds a third of the memory.
"""

import logging.config
import time
from datetime import UTC, datetime, timedelta

from celery import Celery
from celery.schedules import schedule
from django.conf import settings

logging.config.dictConfig(settings.LOGGING)

_BEGAN = datetime.now(UTC) - timedelta(seconds=time.monotonic())


def steady_now() -> datetime:
    """The time as it would be if the machine's clock had never been set since the start. By the machine's own clock,
    one that is set back by an hour would let no sweep run for an hour."""
    return _BEGAN + timedelta(seconds=time.monotonic())


app = Celery("berth-beat", fixups=[], set_as_current=False)
app.config_from_object(settings, namespace="CELERY")
app.conf.beat_schedule = {
    name: {**entry, "schedule": schedule(entry["schedule"], nowfun=steady_now)}
    for name, entry in app.conf.beat_schedule.items()
}
