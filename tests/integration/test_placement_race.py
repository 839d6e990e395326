"""Four processes claim and give back at once, on a real database file or server.

Each writes down when it held what. What they wrote is added up by hand: no GPU by two at a time, never more CPUs or
memory than there is; and in the end nothing waits that would fit.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from tests.support_platform import place
from tests.support_processes import PYTHONPATH, ROOT, python

pytestmark = pytest.mark.any_database

WORKERS, TURNS = 4, 30
GIB = 2**30
# name → (CPUs to promise, GiB, GPUs by model)
NODES = {
    "a": (6, 12, {"rtx2080ti": 3, "a40": 1}),
    "b": (4, 16, {"rtx2080ti": 4}),
    "c": (8, 8, {}),
}
SIZES = {  # name → (CPUs, GiB, model, GPUs)
    "small": (1, 2, "", 0),
    "wide": (3, 6, "", 0),
    "one": (1, 1, "rtx2080ti", 1),
    "two": (0, 4, "rtx2080ti", 2),
    "four": (0.5, 0, "rtx2080ti", 4),
    "big": (1, 1, "a40", 1),
}

SETUP = f"""
import django; django.setup()
from tests.support_console_seed import *
from tests.support_console_seed import _actor
from tests.support_placement import *
load_data(); member("editor@example.org"); actor = _actor("editor@example.org")
for name, (cpus, gib, gpus) in {NODES!r}.items():
    row = node_row(name, cpus=cpus / 2, cpu_overcommit=2, memory_bytes=gib * GIB)
    for model, count in gpus.items():
        gpu_rows(row, count, model)
for name, (cpus, gib, model, count) in {SIZES!r}.items():
    size_row(name, vcpu=cpus, memory_gib=gib, gpu=model, gpu_count=count)
    endpoint = asks_for(actor, InstanceType.objects.get(name=name), name)
    for slot in range(1, 7):
        waiting(endpoint, slot)
"""

# A replica that is stopped is followed by its next attempt, so that there is always something to do.
WORKER = f"""
import json, random, sys, time
import django; django.setup()
from django.db import connection, transaction
from django.utils import timezone
from endpoints import placement
from endpoints.models import Replica, ReplicaState
from endpoints.placement import claims
claims.reconcile_in = lambda endpoint, delay: None
look = claims._look

def slow_look(*given):
    # Between looking and writing is time for all the others to do the same.
    answer = look(*given)
    time.sleep(0.003 if connection.in_atomic_block else 0.06)
    return answer

claims._look = slow_look
# Whose turn it is would keep them apart: here everybody takes what is free.
claims.reading.older_than = lambda *_: []
number = int(sys.argv[1]); dice = random.Random(number); held = {{}}

def say(what, replica, **facts):
    print(json.dumps({{"what": what, "at": time.monotonic(), "replica": str(replica.pk), **facts}}), flush=True)

def rows():
    return Replica.objects.select_related("endpoint", "revision__instance_type")

def stop(replica):
    say("released", replica)
    with transaction.atomic():
        mine = Replica.objects.filter(pk=replica.pk, state=ReplicaState.WAITING).update(state=ReplicaState.STOPPED)
        assert mine == 1
        assert placement.release(replica.pk)
    Replica.objects.create(
        endpoint=replica.endpoint, revision=replica.revision, slot=replica.slot, attempt=replica.attempt + 1,
        name=f"r-{{replica.endpoint.name}}-{{replica.slot}}-{{replica.attempt + 1}}",
    )

print("ready", flush=True); sys.stdin.readline()
for turn in range({TURNS}):
    if held and dice.random() < 0.4:
        stop(held.pop(dice.choice(sorted(held))))
        continue
    # Two workers often ask for the same replica: only one of them owns what comes of it.
    waiting = list(rows().filter(state=ReplicaState.WAITING, claimed=False))
    if not waiting:
        continue
    replica = dice.choice(waiting)
    outcome = placement.place(replica, now=timezone.now())
    if isinstance(outcome, placement.NoRoom):
        say("refused", replica, kind=outcome.kind)
        continue
    owner = Replica.objects.filter(pk=replica.pk, runtime="").update(runtime=str(number))
    if owner:
        held[str(replica.pk)] = replica
        say("claimed", replica, size=replica.endpoint.name, node=outcome.node, gpus=outcome.gpu_ids)
for replica in held.values():
    if dice.random() < 0.5:
        stop(replica)
"""

# Nothing runs beside this: everybody asks until a whole round has placed nobody.
SETTLE = """
import json
import django; django.setup()
from django.utils import timezone
from endpoints import placement
from endpoints.models import Gpu, Replica, ReplicaState
def waiting():
    return Replica.objects.select_related("endpoint", "revision__instance_type").filter(
        state=ReplicaState.WAITING, claimed=False).order_by("-created_at")
while any([isinstance(placement.place(r, now=timezone.now()), placement.Placed) for r in waiting()]):
    pass
print(json.dumps({
    "held": [[r.endpoint.name, r.node_id, r.gpu_ids] for r in Replica.objects.filter(claimed=True)],
    "gpus": dict(Gpu.objects.exclude(replica=None).values_list("uuid", "replica__endpoint__name")),
    "waiting": [r.endpoint.name for r in waiting()],
}))
"""


def test_never_twice_never_too_much_and_nothing_waits_that_fits(tmp_path: Path) -> None:
    where = place(tmp_path)
    where.home.mkdir(parents=True)
    env = {
        **os.environ,
        **where.env,
        "PYTHONPATH": PYTHONPATH,
        "REDIS_URL": f"unix://{where.home}/nobody.sock",
    }
    subprocess.run(python("manage.py", "migrate", "-v0"), cwd=ROOT, env=env, check=True)
    _run(SETUP, env)
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(number)],
            cwd=ROOT,
            env=env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(WORKERS)
    ]
    try:
        for worker in workers:
            assert worker.stdout is not None
            assert worker.stdout.readline() == "ready\n"
        for worker in workers:
            assert worker.stdin is not None
            worker.stdin.write("go\n")
            worker.stdin.flush()
        told = [worker.communicate(timeout=200)[0] for worker in workers]
        assert [worker.returncode for worker in workers] == [0] * WORKERS
    finally:
        for worker in workers:
            worker.kill()
            worker.wait(10)
    history = sorted(
        (json.loads(line) for text in told for line in text.splitlines()), key=lambda one: one["at"]
    )
    claims = _check(history)
    assert claims > 3 * WORKERS, "hardly anything was claimed"
    assert sum(one["what"] == "refused" for one in history) > WORKERS, "nothing ever got scarce"
    _check_end(json.loads(_run(SETTLE, env)))


def _run(code: str, env: dict[str, str]) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=env, check=True, stdout=subprocess.PIPE, text=True
    )
    return done.stdout.strip().splitlines()[-1] if done.stdout.strip() else ""


def _check(history: list[dict[str, Any]]) -> int:
    """Add it up in the order of time. A claim is written down after it was made and a release before it is made, so
    what is held here was really held."""
    by_replica: dict[str, dict[str, Any]] = {}
    gpus: dict[str, str] = {}
    cpus: dict[str, float] = defaultdict(float)
    memory: dict[str, float] = defaultdict(float)
    claims = 0
    for one in history:
        if one["what"] == "released":
            gone = by_replica.pop(one["replica"])
            need = SIZES[gone["size"]]
            cpus[gone["node"]] -= need[0]
            memory[gone["node"]] -= need[1]
            for gpu in gone["gpus"]:
                del gpus[gpu]
        elif one["what"] == "claimed":
            claims += 1
            need = SIZES[one["size"]]
            assert one["replica"] not in by_replica
            assert len(set(one["gpus"])) == need[3], one
            for gpu in one["gpus"]:
                assert gpu.startswith(f"GPU-{one['node']}-{need[2]}-"), one
                assert gpu not in gpus, f"{gpu} belongs to {gpus[gpu]} and to {one['replica']}"
                gpus[gpu] = one["replica"]
            by_replica[one["replica"]] = one
            cpus[one["node"]] += need[0]
            memory[one["node"]] += need[1]
            assert cpus[one["node"]] <= NODES[one["node"]][0], one
            assert memory[one["node"]] <= NODES[one["node"]][1], one
    return claims


def _check_end(found: dict[str, Any]) -> None:
    """What is claimed in the rows is the same seen from both sides, and nothing waits that would fit."""
    taken: dict[str, list[str]] = defaultdict(list)
    for size, node, gpu_ids in found["held"]:
        taken[node].append(size)
        assert len(gpu_ids) == SIZES[size][3]
        for gpu in gpu_ids:
            assert found["gpus"].pop(gpu) == size
    assert found["gpus"] == {}
    for size in found["waiting"]:
        need = SIZES[size]
        for node, (cpus, gib, gpus) in NODES.items():
            used = [SIZES[other] for other in taken[node]]
            lacks = [
                need[0] > cpus / 2,  # more than the machine really has
                need[0] + sum(other[0] for other in used) > cpus,
                need[1] + sum(other[1] for other in used) > gib,
                need[3] + sum(other[3] for other in used if other[2] == need[2]) > gpus.get(need[2], 0),
            ]
            assert any(lacks[:3]) or (need[3] and lacks[3]), (size, node, found)
