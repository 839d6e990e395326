"""1,000 endpoints with 3,000 replicas on the fake runtime: what the sweep, the snapshot and the lists cost then."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from tests.support_processes import PYTHONPATH, ROOT, python
from tests.support_redis import redis_at

ENDPOINTS, REPLICAS = 1000, 3


def measured(what: str) -> Any:
    """What tests.bench.fleet_inside answers to `what`."""
    return answer("tests.bench.fleet_inside", what, str(ENDPOINTS), str(REPLICAS))


def answer(module: str, *arguments: str, database: str = "") -> Any:
    """What a module prints that is run in a home with a Redis of its own; database: its URL, SQLite by default."""
    with tempfile.TemporaryDirectory(prefix="berth-bench-") as folder:
        socket = Path(folder) / "r.sock"
        env = {
            **os.environ,
            "PYTHONPATH": PYTHONPATH,
            "BERTH_HOME": folder,
            "BERTH_RUNTIME": "process",
            "BERTH_LOG_LEVEL": "WARNING",
            "DATABASE_URL": database,
            "REDIS_URL": f"unix://{socket}",
            "DJANGO_SETTINGS_MODULE": "config.settings.dev",
        }
        with redis_at(socket):
            subprocess.run(python("manage.py", "migrate", "-v0"), cwd=ROOT, env=env, check=True)
            subprocess.run(
                python("manage.py", "collectstatic", "-v0", "--noinput"), cwd=ROOT, env=env, check=True
            )
            done = subprocess.run(
                python("-m", module, *arguments),
                cwd=ROOT,
                env=env,
                stdout=subprocess.PIPE,
                text=True,
                timeout=600,
                check=True,
            )
    return json.loads(done.stdout.splitlines()[-1])
