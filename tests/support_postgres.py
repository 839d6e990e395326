"""A real PostgreSQL server for tests: a cluster of its own in a temporary folder, on a unix socket.

It ends with whoever started it, also if that is killed; what a killed run leaves of the folder is removed by the next
one and by `.ci/teardown`. Imports nothing of the project: `make test` starts it before any setting is read.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pwd
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import psycopg

ROLE = "berth"
# Set, it selects the pass: tests run on this server, and those that touch no database are left out.
URL_VARIABLE = "BERTH_TEST_DATABASE_URL"
_PREFIX = "berth-postgres-"
_PR_SET_PDEATHSIG = 1
_START_LIMIT_S = 30.0
# What a test writes may be lost with the machine; how transactions behave does not depend on any of these.
_FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "shared_buffers": "64MB",
    "max_connections": "200",
}


def programs() -> Path | None:
    """The folder with `initdb` and `postgres`: on the PATH, or the newest of Debian's; None where there is none."""
    on_path = shutil.which("initdb")
    if on_path and shutil.which("postgres"):
        return Path(on_path).resolve().parent
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda one: one.parts[-3].zfill(4))
    return found[-1].parent if found else None


@dataclass
class Server:
    """A cluster in `folder`. `start` and `stop` may be called again and again: what is stored stays."""

    folder: Path
    _process: subprocess.Popen[bytes] | None = None

    def url(self, database: str) -> str:
        """DATABASE_URL of one of its databases."""
        return f"postgres://{ROLE}@/{database}?host={self.folder}"

    def start(self) -> None:
        """Start it and wait until it answers."""
        bin_folder = programs()
        assert bin_folder is not None
        options = {**_FAST, "unix_socket_directories": str(self.folder), "listen_addresses": ""}
        command = [str(bin_folder / "postgres"), "-D", str(self.folder / "data")]
        command += [part for name, value in options.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                command,
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a Ctrl-C is for the run, which stops the server last
                preexec_fn=_ends_with(os.getpid()),
                **_unprivileged(),
            )
        deadline = time.monotonic() + _START_LIMIT_S
        while not self._answers():
            assert time.monotonic() < deadline, f"PostgreSQL does not answer within {_START_LIMIT_S:g} s"
            time.sleep(0.05)

    def stop(self, number: int = signal.SIGINT) -> None:
        """End it. SIGINT breaks all connections and ends; SIGQUIT is a crash that the next start mends."""
        if self._process is not None:
            self._process.send_signal(number)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait(10)
            self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "log").read_text(errors="replace")[-3000:]
        with suppress(psycopg.OperationalError):
            psycopg.connect(host=str(self.folder), user=ROLE, dbname="postgres").close()
            return True
        return False


@contextmanager
def server() -> Iterator[Server]:
    """A new empty cluster while the block runs. Call only where `programs()` finds something."""
    remove_left_behind()
    bin_folder = programs()
    assert bin_folder is not None
    folder = Path(tempfile.mkdtemp(prefix=_PREFIX))
    with _locked(folder):
        try:
            (folder / "log").touch()
            _give_away(folder)
            made = Server(folder)
            subprocess.run(
                [
                    *(str(bin_folder / "initdb"), "-D", str(folder / "data"), "--username", ROLE),
                    *(
                        "--auth=trust",
                        "--encoding=UTF8",
                        "--locale=C.UTF-8",
                        "--no-sync",
                        "--no-instructions",
                    ),
                ],
                cwd=folder,
                check=True,
                stdout=subprocess.DEVNULL,
                **_unprivileged(),
            )
            made.start()
            try:
                yield made
            finally:
                made.stop()
        finally:
            shutil.rmtree(folder, ignore_errors=True)


def new_database(near: str = "") -> str:
    """DATABASE_URL of a new empty database on the server of this test run (or of `near`, another URL of a server
    here); "" where the run is on SQLite. It goes with the server."""
    near = near or os.environ.get(URL_VARIABLE, "")
    if not near:
        return ""
    folder = parse_qs(urlsplit(near).query)["host"][0]
    name = f"berth_{secrets.token_hex(6)}"
    with psycopg.connect(host=folder, user=ROLE, dbname="postgres", autocommit=True) as connection:
        connection.execute(f'CREATE DATABASE "{name}"'.encode())
    return Server(Path(folder)).url(name)


def remove_left_behind() -> None:
    """End servers and remove folders whose run is dead: nobody holds their lock."""
    for folder in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with suppress(OSError), (folder / "lock").open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            with suppress(FileNotFoundError, ProcessLookupError):
                pid = int((folder / "data" / "postmaster.pid").read_text().split()[0])
                if str(folder) in Path(f"/proc/{pid}/cmdline").read_text():
                    os.kill(pid, signal.SIGQUIT)
            shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def _locked(folder: Path) -> Iterator[None]:
    """The lock that says "its run lives"; the kernel lets go of it when that ends, however it ends."""
    with (folder / "lock.new").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        (folder / "lock.new").rename(folder / "lock")  # never seen without being held
        yield


def _unprivileged() -> dict[str, object]:
    """For Popen: PostgreSQL refuses to run as root."""
    account = _account()
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []} if account else {}


def _account() -> pwd.struct_passwd | None:
    if os.geteuid() != 0:
        return None
    with suppress(KeyError):
        return pwd.getpwnam("postgres")
    return pwd.getpwnam("nobody")


def _give_away(folder: Path) -> None:
    account = _account()
    if account:
        for path in (folder, *folder.iterdir()):
            os.chown(path, account.pw_uid, account.pw_gid)


def _ends_with(parent: int) -> Callable[[], None] | None:
    """What makes the kernel end the server when its parent dies; elsewhere than on Linux nothing does."""
    if sys.platform != "linux":
        return None
    set_option = ctypes.CDLL(None).prctl

    def ask() -> None:
        set_option(_PR_SET_PDEATHSIG, signal.SIGQUIT)
        if os.getppid() != parent:  # it died before we asked
            os._exit(1)

    return ask
