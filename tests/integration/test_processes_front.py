"""The front with small programs in place of Berth's: what ends comes back, what is stopped is gone."""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import AbstractContextManager
from pathlib import Path

import pytest

from launcher import home
from launcher.programs import Plan, Program
from tests.support_processes import Running, eventually, processes_of, python, started

SLEEPER = "import time; print('ready', flush=True); time.sleep(600)"
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('ready', flush=True); time.sleep(600)"
FAILS = "import sys; print('the cause of it'); sys.exit(3)"


def program(name: str, code: str, **fields: object) -> Program:
    """A Python one-liner as a program; started counts after a moment."""
    return Program(name, (sys.executable, "-c", code), **{"started_s": 1, "stop_s": 2, **fields})  # type: ignore[arg-type]


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A home with the folders that the front expects."""
    place = tmp_path / "home"
    home.prepare(place, place / "run")
    return place


def front(place: Path, *programs: Program, **fields: object) -> AbstractContextManager[Running]:
    """A front that runs `programs`."""
    plan = Plan(
        root=str(place),
        home=str(place),
        run_dir=str(place / "run"),
        programs=programs,
        env={"BERTH_SUPERVISED": str(place)},
        began=time.time(),
        **fields,  # type: ignore[arg-type]
    )
    plan.save(place / "plan.json")
    return started(python("-m", "launcher.front", str(place / "plan.json")), place)


def test_a_killed_process_comes_back_and_says_so(place: Path) -> None:
    with front(place, program("web", SLEEPER)) as running:
        running.line(r"web +ready")
        first = eventually(lambda: running.children().get("web"), "web runs")
        log = place / "log" / "supervisor.log"
        eventually(lambda: "web entered RUNNING" in log.read_text(), "it counts as started")
        first.kill()
        running.line(r"berth +web ended with signal 9; started again$")
        running.line(r"web is back \(pid \d+\)")
        second = running.children()["web"]
        assert second.pid != first.pid
        assert running.text.count("ready") == 2


def test_quick_ends_are_tried_again_with_growing_pauses_for_ever(place: Path) -> None:
    with front(place, program("web", FAILS, started_s=10), retries=1, pause_s=1.0) as running:
        running.line(r"web ended with exit code 3; started again in 1 s")
        running.line(r"web ended with exit code 3; started again in 2 s")
        running.line(r"web keeps ending; next try in 1 s\. Its log: .*/log/web\.log")
        seen = running.text.count("the cause of it")
        eventually(lambda: running.text.count("the cause of it") > seen, "tried again after it was given up")


def test_a_quiet_process_shows_its_last_words_when_it_ends(place: Path) -> None:
    with front(place, program("redis", FAILS, quiet=True)) as running:
        running.line(r"redis +the cause of it")


def test_a_program_that_cannot_be_started_is_named(place: Path) -> None:
    with front(place, Program("web", (str(place / "nothing-here"),))) as running:
        running.line(r"web could not be started \(can't find command")


def test_logs_are_kept_in_files_and_shown_line_by_line(place: Path) -> None:
    halves = (
        "import sys, time; sys.stdout.write('one '); sys.stdout.flush(); time.sleep(0.3); "
        "print('line'); time.sleep(600)"
    )
    with front(place, program("web", halves)) as running:
        running.line(r"^\d\d:\d\d:\d\d web +one line$")
        assert (place / "log" / "web.log").read_text() == "one line\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="only Linux has a device that is always full")
def test_logs_on_a_full_disk_end_nothing(place: Path) -> None:
    (place / "log" / "web.log").symlink_to("/dev/full")
    with front(place, program("web", SLEEPER)) as running:
        running.line(r"web +ready")
        running.children()["web"].kill()
        running.line(r"web ended with signal 9")
        eventually(lambda: running.text.count("web        ready") == 2, "it was started again")
        assert "Traceback" not in running.text
        assert running.stop() < 5


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_one_signal_stops_everything(place: Path, number: int) -> None:
    with front(place, program("web", SLEEPER), program("worker", SLEEPER)) as running:
        running.line(r"web +ready")
        running.line(r"worker +ready")
        assert running.stop(number) < 5
        assert running.process.returncode == 0
        assert "stopped in" in running.text
        assert processes_of(place) == []


def test_last_programs_stop_after_all_others(place: Path) -> None:
    note = "import pathlib, signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep({pause}), \
pathlib.Path('{file}').write_text(str(time.monotonic())), sys.exit(0))); print('ready', flush=True); time.sleep(600)"
    ends = {name: place / f"{name}.end" for name in ("redis", "worker")}
    with front(
        place,
        program("redis", note.format(pause=0, file=ends["redis"]), last=True),
        program("worker", note.format(pause=0.7, file=ends["worker"])),
    ) as running:
        running.line(r"redis +ready")
        running.line(r"worker +ready")
        running.stop()
    assert float(ends["worker"].read_text()) < float(ends["redis"].read_text())


def test_a_process_that_does_not_stop_is_killed_in_time(place: Path) -> None:
    with front(place, program("worker", DEAF)) as running:
        running.line(r"worker +ready")
        assert 1.5 < running.stop() < 6
        assert processes_of(place) == []


def test_a_second_interrupt_does_not_wait(place: Path) -> None:
    with front(place, program("worker", DEAF, stop_s=60)) as running:
        running.line(r"worker +ready")
        running.send(signal.SIGINT)
        running.line(r"stopping")
        began = time.monotonic()
        while running.process.poll() is None:  # the same Ctrl-C twice within a moment counts once
            assert time.monotonic() - began < 10
            running.send(signal.SIGINT)
            eventually(
                lambda: running.process.poll() is not None or time.monotonic() - began > 0.7, "a moment"
            )
        assert processes_of(place) == []


def test_nothing_survives_a_killed_front(place: Path) -> None:
    with front(place, program("web", SLEEPER), program("worker", SLEEPER)) as running:
        running.line(r"web +ready")
        running.line(r"worker +ready")
        running.send(signal.SIGKILL)
        eventually(lambda: not processes_of(place), "its processes have ended")


def test_the_next_start_ends_what_a_killed_front_left(place: Path) -> None:
    with front(place, program("worker", DEAF)) as running:
        running.line(r"worker +ready")
        eventually((place / "run" / "processes.json").exists, "the front has recorded its processes")
        running.send(signal.SIGKILL)
        running.process.wait(5)
        assert len(processes_of(place)) == 1  # it ignores the kernel's SIGTERM
        assert home.stop_leftovers(place / "run", wait_s=0.5) == ["worker"]
        eventually(lambda: not processes_of(place), "it is gone")


def test_a_pid_that_was_given_to_another_process_is_left_alone(place: Path) -> None:
    home.record(place / "run", {"worker": os.getpid()})
    path = place / "run" / "processes.json"
    path.write_text(path.read_text().replace(home.started_at(os.getpid()), "12345"))
    assert home.stop_leftovers(place / "run") == []


ANSWER = "import sys; print('  the answer'); sys.exit(4)"


def test_the_demos_output_and_status_are_passed_on(place: Path) -> None:
    with front(
        place,
        program("web", SLEEPER),
        program("demo", ANSWER, once=True),
        show_logs=False,
        stop_after_demo=True,
    ) as running:
        assert running.process.wait(15) == 4
        assert "\n  the answer\n" in "\n" + running.text
        assert "web" not in running.text
        assert processes_of(place) == []


def test_the_platform_stays_up_after_a_demo_that_failed(place: Path) -> None:
    with front(place, program("web", SLEEPER), program("demo", ANSWER, once=True)) as running:
        running.line(r"The demo did not finish")
        assert running.children()["web"].is_running()


def test_one_home_is_used_once(place: Path) -> None:
    held = home.take_lock(place / "run", "http://localhost:8000")
    with pytest.raises(
        home.HomeError, match=rf"already running .*pid {os.getpid()}, console http://localhost:8000"
    ):
        home.take_lock(place / "run", "http://localhost:9000")
    os.close(held)
    os.close(home.take_lock(place / "run", "http://localhost:9000"))


def test_a_run_folder_of_somebody_else_is_not_trusted(tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir(mode=0o777)
    elsewhere.chmod(0o777)
    (tmp_path / "run").symlink_to(elsewhere)
    with pytest.raises(home.HomeError, match="belongs to somebody else"):
        home.prepare(tmp_path / "home", tmp_path / "run")
