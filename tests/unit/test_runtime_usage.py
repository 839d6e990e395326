"""Where the kernel and an engine write what a container has used, in every form that they have."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtimes import cgroups, process_usage
from runtimes.docker_usage import usage_of

ID = "a" * 64


class Machine:
    """A /proc and its groups' files below one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.proc = folder / "proc"

    def write(self, path: str, text: str) -> None:
        place = self.folder / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(text)

    def mounts(self, *lines: str) -> None:
        """mountinfo lines, with {} for this machine's folder."""
        self.write("proc/self/mountinfo", "".join(line.format(self.folder) + "\n" for line in lines))

    def files(self) -> cgroups.Files | None:
        return cgroups.files_of(7, ID, proc=self.proc)


V2 = "35 24 0:30 / {}/cg rw,nosuid - cgroup2 cgroup2 rw,nsdelegate"


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    made = Machine(tmp_path)
    made.mounts("22 1 0:21 / /proc rw - proc proc rw", V2)
    made.write("proc/7/cgroup", f"0::/system.slice/docker-{ID}.scope\n")
    group = f"cg/system.slice/docker-{ID}.scope"
    made.write(f"{group}/cpu.stat", "usage_usec 2500000\nuser_usec 2000000\nsystem_usec 500000\n")
    made.write(f"{group}/memory.current", "1000000\n")
    made.write(f"{group}/memory.stat", "anon 600000\ninactive_anon 7\ninactive_file 300000\nactive_file 1\n")
    return made


def read(machine: Machine) -> tuple[float, int]:
    files = machine.files()
    assert files is not None
    usage = files.read()
    assert usage is not None
    return usage.cpu_seconds, usage.memory_bytes


def test_version_2(machine: Machine) -> None:
    assert read(machine) == (2.5, 700_000)


def test_a_group_inside_the_containers_own_counts_as_the_containers(machine: Machine) -> None:
    machine.write("proc/7/cgroup", f"0::/system.slice/docker-{ID}.scope/init.scope\n")
    assert read(machine) == (2.5, 700_000)


def test_a_hierarchy_that_is_mounted_from_below_its_root(machine: Machine) -> None:
    machine.mounts("35 24 0:30 /system.slice {}/cg/system.slice rw - cgroup2 cgroup2 rw")
    assert read(machine) == (2.5, 700_000)


def test_version_1_beside_an_empty_version_2(machine: Machine) -> None:
    machine.mounts(
        V2,
        "33 31 0:30 / {}/v1/cpu rw - cgroup cgroup rw,cpu,cpuacct",
        "35 31 0:32 / {}/v1/memory rw - cgroup cgroup rw,memory",
    )
    machine.write("proc/7/cgroup", f"5:memory:/docker/{ID}\n4:cpu,cpuacct:/docker/{ID}\n0::/docker/{ID}\n")
    machine.write(f"v1/cpu/docker/{ID}/cpuacct.usage", "1250000000\n")
    machine.write(f"v1/memory/docker/{ID}/memory.usage_in_bytes", "500\n")
    machine.write(f"v1/memory/docker/{ID}/memory.stat", "inactive_file 1\ntotal_inactive_file 200\n")
    assert read(machine) == (1.25, 300)


@pytest.mark.parametrize("text", ["0::/docker/" + "b" * 64, "0::/", ""])
def test_a_process_of_somebody_else_is_not_taken_for_the_container(machine: Machine, text: str) -> None:
    machine.write("proc/7/cgroup", text)
    assert machine.files() is None


def test_a_machine_that_shows_no_groups_has_no_files(machine: Machine) -> None:
    machine.mounts("22 1 0:21 / /proc rw - proc proc rw")
    assert machine.files() is None
    (machine.proc / "7" / "cgroup").unlink()
    assert machine.files() is None


@pytest.mark.parametrize("text", ["", "user_usec 1\n", "usage_usec many\n"])
def test_files_that_say_something_else_say_nothing(machine: Machine, text: str) -> None:
    files = machine.files()
    assert files is not None
    machine.write(f"cg/system.slice/docker-{ID}.scope/cpu.stat", text)
    assert files.read() is None
    Path(files.cpu).unlink()
    assert files.read() is None


@pytest.mark.parametrize("key", ["total_inactive_file", "inactive_file"])
def test_an_engines_answer(key: str) -> None:
    answer: dict[str, Any] = {
        "cpu_stats": {"cpu_usage": {"total_usage": 3_000_000_000}},
        "memory_stats": {"usage": 900, "stats": {key: 100}},
    }
    found = usage_of(answer, 5.0)
    assert found is not None
    assert (found.cpu_seconds, found.memory_bytes, found.at) == (3.0, 800, 5.0)


@pytest.mark.parametrize("memory", [{}, {"usage": None}, {"usage": "x"}])
def test_an_engines_answer_about_one_that_ended(memory: dict[str, Any]) -> None:
    answer = {"cpu_stats": {"cpu_usage": {"total_usage": 0}}, "memory_stats": memory}
    assert usage_of(answer, 5.0) is None
    assert usage_of({}, 5.0) is None


def _process(machine: Machine, pid: int, parent: int, group: int, ticks: int, kib: int) -> None:
    fields = f"S {parent} {group} 1 0 -1 0 0 0 0 0 {ticks} 0 0 0 20 0"
    machine.write(f"proc/{pid}/stat", f"{pid} (a) S 1 1 (b) {fields}\n")
    machine.write(f"proc/{pid}/status", f"Name:\ta\nRssAnon:\t{kib} kB\nRssFile:\t99 kB\nRssShmem:\t0 kB\n")


def test_a_replica_is_its_group_and_what_descends_from_it(tmp_path: Path) -> None:
    machine = Machine(tmp_path)
    _process(machine, 10, 1, 10, 100, 1)  # the replica
    _process(machine, 11, 10, 10, 200, 2)  # its child
    _process(machine, 12, 11, 12, 400, 4)  # which left for a group of its own
    _process(machine, 13, 1, 10, 800, 8)  # an orphan of the group
    _process(machine, 20, 1, 20, 5000, 50)  # somebody else
    (machine.proc / "99").mkdir()  # it ended between two looks
    found = process_usage.usage_of({"a": 10, "gone": 77}, proc=machine.proc)
    assert set(found) == {"a"}
    assert found["a"].cpu_seconds * process_usage.os.sysconf("SC_CLK_TCK") == pytest.approx(1500)
    assert found["a"].memory_bytes == 15 * 1024


def test_a_machine_without_proc_tells_nothing(tmp_path: Path) -> None:
    assert process_usage.usage_of({"a": 10}, proc=tmp_path / "none") == {}
