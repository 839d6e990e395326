"""The Celery application. Tasks are a few lines each and live in the apps' tasks.py.

A task carries the id of the request that caused it, so that the worker's log lines and what the task asks for name it.
"""

from __future__ import annotations

import os
import warnings
from typing import Any

from celery import Celery, Task
from celery.signals import before_task_publish, setup_logging, task_postrun, task_prerun, worker_ready

from iam.origin import Origin, origin

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings.dev")
# `manage.py up` has checked before any worker starts, and the checks load every view: 25 MB a worker.
os.environ.setdefault("CELERY_SKIP_CHECKS", "1")

# Its reason is pickle, which we don't accept; in a container, root is the usual user.
warnings.filterwarnings("ignore", message="You're running the worker with superuser privileges")
# Said at every loss of the broker, over six lines. Our tasks may run twice: the lease sees to it.
warnings.filterwarnings("ignore", message=r"\s*In Celery 5.1 we introduced an optional breaking change")

app = Celery("berth")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


@setup_logging.connect
def _leave_logging_alone(**_: Any) -> None:
    """Django's LOGGING stands; Celery would set levels and handlers of its own."""


_CARRIED = "berth_request_id"


@before_task_publish.connect
def _carry_request(headers: dict[str, Any], **_: Any) -> None:
    """Into the message."""
    if request_id := origin.get().request_id:
        headers[_CARRIED] = request_id


@task_prerun.connect
def _take_up_request(task: Task[Any, Any], **_: Any) -> None:
    """Out of the message. A worker's thread runs one task after another: each sets its own."""
    origin.set(Origin(request_id=task.request.get(_CARRIED) or ""))


@task_postrun.connect
def _put_down_request(**_: Any) -> None:
    """Between tasks there is no request."""
    origin.set(Origin())


@worker_ready.connect
def _look_at_everything(**_: Any) -> None:
    """At its start a worker does not wait for the clock: what ended while none was there is found at once."""
    for entry in app.conf.beat_schedule.values():
        app.send_task(entry["task"], **entry["options"])
