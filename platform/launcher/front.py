"""The console front: supervisor's engine in this process, with our own eyes and voice.

`python -m launcher.front PLAN.json`. Without Django, so that what stays resident is small. The engine (supervisor
4.3, embedded: its events and its options are extended here, nothing is copied) starts, restarts and stops the
processes; the front prints what happens to them, passes their logs on, tries again what the engine has given up,
and sees to it that nothing outlives it.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from supervisor import events, loggers
from supervisor.medusa.asyncore_25 import ExitNow
from supervisor.options import ServerOptions
from supervisor.states import ProcessStates, SupervisorStates
from supervisor.supervisord import Supervisor

from launcher import home, readiness
from launcher.programs import Plan, engine_conf
from launcher.terminal import Terminal
from runtimes.process import ProcessRuntime

PR_SET_PDEATHSIG = 1  # prctl(2)
_OWN_TIME = re.compile(r"^\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d[,.]\d+ ")  # our line carries the time already
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


class Options(ServerOptions):  # type: ignore[misc]
    """The engine's options with two additions: exit statuses are kept, children die with their parent."""

    def __init__(self) -> None:
        super().__init__()
        self.ended: dict[int, int] = {}  # pid → wait status
        self.parent = os.getpid()
        self.interrupts = 0

    def waitpid(self) -> tuple[int | None, int | None]:
        """Remember how a child ended: the engine's events don't say."""
        pid, status = super().waitpid()
        if pid:
            self.ended[pid] = status
        return pid, status

    def setpgrp(self) -> None:
        """Called in the fresh child. If the front is killed with -9, the kernel asks the child to stop (Linux)."""
        super().setpgrp()
        if _libc is not None:
            _libc.prctl(PR_SET_PDEATHSIG, int(signal.SIGTERM))
            if os.getppid() != self.parent:  # it died before we asked
                os._exit(0)

    def get_signal(self) -> int | None:
        """A closed terminal means stop, not reload."""
        number: int | None = super().get_signal()
        self.interrupts += number == signal.SIGINT
        return signal.SIGTERM if number == signal.SIGHUP else number


def _log_not_written(_handler: object) -> None:
    """A log file's disk is full. The engine would print a traceback for every line, and end if that fails as well;
    the terminal has the lines anyway."""


loggers.Handler.handleError = _log_not_written


class Front(Supervisor):  # type: ignore[misc]
    """The engine's main loop and its listeners."""

    def __init__(self, options: Options, plan: Plan, terminal: Terminal) -> None:
        super().__init__(options)
        self.plan = plan
        self.terminal = terminal
        self.programs = {program.name: program for program in plan.programs}
        self.exit_status = 0
        self.unfinished: dict[str, bytes] = {}  # a process's last line while it has no end yet
        self.recent: dict[str, list[str]] = {}  # a process's last lines, shown when it ends
        self.trouble: set[str] = set()  # ended since they last counted as started
        self.retry_at: dict[str, float] = {}
        self.recorded: dict[str, int] = {}
        self.stop_began = 0.0

    def runforever(self) -> None:
        """Listen, then run until all processes have been stopped."""
        events.subscribe(events.ProcessLogEvent, self.on_output)
        events.subscribe(events.ProcessStateExitedEvent, self.on_ended)
        events.subscribe(events.ProcessStateBackoffEvent, self.on_ended)
        events.subscribe(events.ProcessStateFatalEvent, self.on_given_up)
        events.subscribe(events.ProcessStateRunningEvent, self.on_running)
        events.subscribe(events.SupervisorStoppingEvent, self.on_stopping)
        if not any(program.once for program in self.plan.programs):  # the demo says what is ready
            readiness.announce(self.plan, self.terminal)
        super().runforever()

    # --- what happens to processes ------------------------------------------------------------------------

    def on_output(self, event: Any) -> None:
        """Pass whole lines on; keep an unfinished one for the next call."""
        name = event.process.config.name
        data = event.data if isinstance(event.data, bytes) else str(event.data).encode()
        if self.programs[name].once:
            self.terminal.write(data.decode("utf-8", "replace"))
            return
        *lines, rest = (self.unfinished.pop(name, b"") + data).split(b"\n")
        if rest:
            self.unfinished[name] = rest[-8192:]
        for line in lines:
            self._line(name, line.decode("utf-8", "replace").rstrip())

    def _line(self, name: str, text: str) -> None:
        if not text:
            return
        self.recent[name] = [*self.recent.get(name, [])[-4:], text]
        if self.plan.show_logs and not self.programs[name].quiet:
            self.terminal.log(name, _OWN_TIME.sub("", text))

    def on_ended(self, event: Any) -> None:
        """A process ended although nobody stopped it."""
        process, name = event.process, event.process.config.name
        how = describe(self.options.ended.pop(process.pid, None), process.spawnerr)
        if self.programs[name].once:
            self._demo_ended(process.exitstatus)
            return
        if name not in self.trouble:
            self._evidence(name)
        self.trouble.add(name)
        pause = process.backoff if process.state == ProcessStates.BACKOFF else 0
        again = f"started again in {pause} s" if pause else "started again"
        self.terminal.log("berth", self.terminal.paint(f"{name} {how}; {again}", "33"))

    def _evidence(self, name: str) -> None:
        if self.plan.show_logs and not self.programs[name].quiet:
            return  # they have just been seen
        for text in self.recent.get(name, []):
            self.terminal.log(name, text)

    def on_given_up(self, event: Any) -> None:
        """The engine stops trying after a number of quick ends. We never do."""
        name = event.process.config.name
        self.retry_at[name] = time.monotonic() + self.plan.pause_s
        log = Path(self.plan.home) / "log" / f"{name}.log"
        text = f"{name} keeps ending; next try in {self.plan.pause_s:.0f} s. Its log: {log}"
        self.terminal.log("berth", self.terminal.paint(text, "31"))

    def on_running(self, event: Any) -> None:
        """A process has been up long enough to count as started."""
        name = event.process.config.name
        if name in self.trouble:
            self.trouble.discard(name)
            self.terminal.log("berth", self.terminal.paint(f"{name} is back (pid {event.process.pid})", "32"))

    def _demo_ended(self, status: int | None) -> None:
        if self.plan.stop_after_demo:
            self.exit_status = 1 if status is None else abs(status)
            self.options.mood = SupervisorStates.SHUTDOWN
        elif status:
            self.terminal.line(
                "\n  The demo did not finish; what went wrong stands above. The platform stays up until Ctrl-C."
            )

    # --- the loop -----------------------------------------------------------------------------------------

    def tick(self, now: float | None = None) -> None:
        """Called in every round, at least once a second."""
        super().tick(now)
        running = {process.config.name: process.pid for process in self._processes() if process.pid}
        if running != self.recorded:
            with suppress(OSError):  # a full disk; tried again in the next round
                home.record(Path(self.plan.run_dir), running)
                self.recorded = running
        if self.options.mood < SupervisorStates.RUNNING:
            return
        for process in self._processes():
            due = self.retry_at.get(process.config.name)
            if due and time.monotonic() >= due and process.state == ProcessStates.FATAL:
                del self.retry_at[process.config.name]
                process.spawn()

    def _processes(self) -> list[Any]:
        return [process for group in self.process_groups.values() for process in group.processes.values()]

    def handle_signal(self) -> None:
        """As the engine does; a second Ctrl-C does not wait for anybody."""
        waiting = self.options.mood < SupervisorStates.RUNNING and time.monotonic() - self.stop_began > 0.5
        before = self.options.interrupts
        super().handle_signal()
        if waiting and self.options.interrupts > before:
            self.terminal.log("berth", "killing what has not stopped yet")
            for process in self._processes():
                if process.pid:
                    self.options.kill(process.pid, signal.SIGKILL)

    def on_stopping(self, _event: Any) -> None:
        """Say it once."""
        self.stop_began = time.monotonic()
        self.terminal.log("berth", "stopping")


def describe(status: int | None, spawn_error: str | None) -> str:
    """How a process ended, in words: `status` as os.waitpid gave it."""
    if status is None:
        return f"could not be started ({spawn_error or 'no reason given'})"
    if os.WIFSIGNALED(status):
        return f"ended with signal {os.WTERMSIG(status)}"
    return f"ended with exit code {os.waitstatus_to_exitcode(status)}"


def run(plan: Plan) -> int:
    """Keep the plan's processes running until Ctrl-C. Returns the exit status."""
    terminal = Terminal()
    os.environ.update(plan.env)
    if plan.lock_fd >= 0:
        fcntl.fcntl(plan.lock_fd, fcntl.F_SETFD, fcntl.FD_CLOEXEC)
    conf = Path(plan.run_dir) / "supervisord.conf"
    conf.write_text(engine_conf(plan))
    options = Options()
    options.realize(["-c", str(conf)], doc=__doc__)
    options.first, options.test = True, False
    front = Front(options, plan, terminal)
    with suppress(ExitNow):
        front.main()
    options.close_httpservers()
    options.close_logger()
    if plan.runtime == ProcessRuntime.kind:
        # After the worker: nobody takes their end for a failure. They come back at the next start.
        ProcessRuntime(Path(plan.home), plan.owner).stop_all(grace_s=2)
    (Path(plan.run_dir) / "processes.json").unlink(missing_ok=True)
    terminal.log("berth", f"stopped in {time.monotonic() - front.stop_began:.1f} s")
    return front.exit_status


def main() -> int:
    """For the shell and for `manage.py up`, which becomes this by exec."""
    return run(Plan.load(Path(sys.argv[1])))


if __name__ == "__main__":
    raise SystemExit(main())
