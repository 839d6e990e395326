"""What the processes behind the console must not load: it is of no use there, and each holds it for itself."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support_processes import PYTHONPATH, ROOT

WORKER = """
from config.celery import app
app.loader.import_default_modules()
assert "endpoints.tasks.sweep" in app.tasks, sorted(app.tasks)
"""
WATCHER = """
import django
from django.core.management import get_commands, load_command_class
django.setup()
command = load_command_class(get_commands()["watch"], "watch")
assert list(command.requires_system_checks) == []
"""
# The console's and the API's views, the schema, and the GPUs' driver where there is none.
HEAVY = {"config.urls", "rest_framework.views", "drf_spectacular.plumbing", "pynvml"}


@pytest.mark.parametrize("process", [WORKER, WATCHER], ids=["worker", "watcher"])
def test_no_views_and_no_driver_behind_the_console(process: str, tmp_path: Path) -> None:
    code = f"import sys{process}print(*sorted({HEAVY!r} & sys.modules.keys()))"
    env = {
        **{name: value for name, value in os.environ.items() if name != "CELERY_SKIP_CHECKS"},
        "PYTHONPATH": PYTHONPATH,
        "BERTH_HOME": str(tmp_path),
        "DJANGO_SETTINGS_MODULE": "config.settings.dev",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.split()) == (0, []), done.stderr
