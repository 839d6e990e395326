"""The clock's Celery application: the schedule and the broker, and none of the apps.

The clock only names tasks, it never runs them. Without the apps it holds a third of the memory.
"""

import logging.config

from celery import Celery
from django.conf import settings

logging.config.dictConfig(settings.LOGGING)

app = Celery("berth-beat", fixups=[], set_as_current=False)
app.config_from_object(settings, namespace="CELERY")
