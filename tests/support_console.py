"""A console of its own for browser tests: web and Redis as processes, and a hand that changes the database under it.

No worker runs: what a deployment does is played by the hand, so that a test says exactly when what happens.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from launcher import assets
from tests.support_platform import Place, place
from tests.support_processes import PYTHONPATH, ROOT, eventually, python
from tests.support_redis import redis_at

PASSWORD = "correct horse battery staple"

# Runs what it is told, line by line, in one namespace, and answers with the last expression's value as JSON.
HAND = """
import ast, json, sys, traceback
import django, django.db
django.setup()
from tests.support_console_seed import *
names = dict(globals())
print(json.dumps("ready"), flush=True)
for line in sys.stdin:
    django.db.close_old_connections()  # as before every request: a database may have been restarted
    try:
        tree = ast.parse(json.loads(line))
        last = tree.body.pop() if tree.body and isinstance(tree.body[-1], ast.Expr) else None
        exec(compile(tree, "hand", "exec"), names)
        value = eval(compile(ast.Expression(last.value), "hand", "eval"), names) if last else None
        print(json.dumps({"value": value}, default=str), flush=True)
    except Exception:
        print(json.dumps({"error": traceback.format_exc()}), flush=True)
"""


@dataclass
class Console:
    """A running console."""

    where: Place
    env: dict[str, str]
    log: Path
    hand: subprocess.Popen[str]
    web: subprocess.Popen[bytes] = field(init=False)

    @property
    def url(self) -> str:
        """Its address."""
        return self.where.console

    def do(self, code: str) -> Any:
        """Run Python in a process that has the models; the last expression's value comes back."""
        assert self.hand.stdin is not None
        assert self.hand.stdout is not None
        self.hand.stdin.write(json.dumps(code) + "\n")
        self.hand.stdin.flush()
        answer = json.loads(self.hand.stdout.readline())
        assert "error" not in answer, answer["error"]
        return answer["value"]

    def start_web(self) -> None:
        """Start uvicorn and wait until it answers."""
        command = python("-m", "uvicorn", "config.asgi:application", "--port", str(self.where.port))
        command += ["--http", "config.web_limits:LimitedProtocol"]
        with self.log.open("ab") as log:
            self.web = subprocess.Popen(
                [*command, "--log-level", "warning"], cwd=ROOT, env=self.env, stdout=log, stderr=log
            )
        eventually(self._answers, "web answers", 30)

    def stop_web(self) -> None:
        """As a crash would: at once."""
        self.web.kill()
        self.web.wait(10)

    def _answers(self) -> bool:
        try:
            with urllib.request.urlopen(f"{self.url}/accounts/login/", timeout=5) as answer:
                return bool(answer.status == 200)
        except urllib.error.HTTPError:
            raise
        except OSError:
            return False


@contextmanager
def console(folder: Path) -> Iterator[Console]:
    """A console with regions, instance types, frameworks, and nothing else, while the block runs."""
    assets.build()
    where = place(folder)
    where.home.mkdir(parents=True)
    socket = where.home / "r.sock"
    env = {**os.environ, **where.env, "PYTHONPATH": PYTHONPATH, "REDIS_URL": f"unix://{socket}"}
    with redis_at(socket):
        for command in (["migrate"], ["collectstatic", "--noinput"]):
            subprocess.run(python("manage.py", *command, "-v0"), cwd=ROOT, env=env, check=True)
        hand = subprocess.Popen(
            [sys.executable, "-c", HAND],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert hand.stdout is not None
        assert json.loads(hand.stdout.readline()) == "ready"
        running = Console(where, env, folder / "web.log", hand)
        try:
            running.do("load_data()")
            running.start_web()
            yield running
        finally:
            if hasattr(running, "web") and running.web.poll() is None:
                running.stop_web()
            hand.kill()
            hand.wait(10)
