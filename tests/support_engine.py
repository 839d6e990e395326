"""A Docker Engine of a test's own, which it may fill up, kill and start again: no network, no containers' bridge."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import docker
import docker.errors
import psutil

from tests.support import require
from tests.support_processes import eventually


@dataclass
class Engine:
    """`url` is for DOCKER_HOST. Its images stay over `kill` and `start`."""

    folder: Path
    flags: tuple[str, ...] = ()
    _process: subprocess.Popen[bytes] | None = field(init=False, default=None)

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"unix://{self.folder / 'engine.sock'}"

    def start(self) -> None:
        """Return once it answers."""
        program = shutil.which("dockerd", path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
        require("dockerd", program is not None, "no dockerd on PATH")
        require("root", os.geteuid() == 0, "only root may start an engine")
        command = [str(program), "--data-root", str(self.folder / "data"), "--host", self.url]
        command += ["--exec-root", str(self.folder / "exec"), "--pidfile", str(self.folder / "engine.pid")]
        command += [
            "--bridge",
            "none",
            "--iptables=false",
            "--ip-forward=false",
            "--ip-masq=false",
            *self.flags,
        ]
        with (self.folder / "engine.log").open("ab") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log)
        eventually(self._answers, "the engine answers", 30)

    def kill(self) -> None:
        """As a crash: the engine alone; `start` brings it back."""
        assert self._process is not None
        family = psutil.Process(self._process.pid).children(recursive=True)
        self._process.kill()
        self._process.wait(10)
        self._process = None
        for one in family:  # its containerd would be taken for that of a living engine
            with suppress(psutil.Error):
                if one.name() == "containerd":
                    one.kill()
                    one.wait(10)

    def stop(self) -> None:
        """It and its containerd."""
        if self._process is None:
            return
        family = [*psutil.Process(self._process.pid).children(recursive=True)]
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(15)
        for one in [*family, self._process]:
            with suppress(psutil.Error):
                one.kill()
        self._process.wait(10)
        self._process = None

    def _answers(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self.folder / "engine.log").read_text(errors="replace")[-2000:]
        try:
            return bool(docker.APIClient(base_url=self.url, version="1.41", timeout=5).ping())
        except (docker.errors.DockerException, OSError):  # requests' errors are OSErrors
            return False


@contextmanager
def engine_of_its_own(folder: Path, *flags: str, disk_mb: int = 64) -> Iterator[Engine]:
    """An empty engine whose disk is that small, while the block runs. `folder`: a short path, for its socket."""
    data = folder / "data"
    data.mkdir(parents=True)
    engine = Engine(folder, flags)
    require("root", os.geteuid() == 0, "only root may mount a small disk")
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={disk_mb}m", "tmpfs", str(data)], check=True)
    try:
        engine.start()
        yield engine
    finally:
        engine.stop()
        subprocess.run(["umount", "--lazy", str(data)], check=True)
        shutil.rmtree(folder, ignore_errors=True)
