"""Pulls from a real registry: bytes as they come, at any pace, and each way to fail told apart."""

from __future__ import annotations

import base64
import itertools
import json
import tempfile
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runtimes import images
from runtimes.contract import PullProgress, RegistryAuth
from runtimes.docker import DockerRuntime
from runtimes.docker_pull import _Layers
from runtimes.errors import ImageDenied, ImageMissing, NoSpace, RegistryUnreachable, RuntimeFailure
from tests.contract.image_registry import LAYER_BYTES, PASSWORD, USER, Registry, running_registry
from tests.support_engine import engine_of_its_own
from tests.support_line import Line, line_to
from tests.support_processes import eventually

pytestmark = pytest.mark.engine


@pytest.fixture
def runtime() -> Iterator[DockerRuntime]:
    """The machine's engine; what was pulled from a loopback registry is removed again."""
    runtime = DockerRuntime(f"test-{uuid.uuid4().hex[:12]}")
    before = _loopback_images(runtime)
    yield runtime
    for tag in _loopback_images(runtime) - before:
        runtime._api().remove_image(tag, force=True)


def _loopback_images(runtime: DockerRuntime) -> set[str]:
    rows = runtime._api().images()
    return {tag for row in rows for tag in row["RepoTags"] or () if tag.startswith("127.0.0.1:")}


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with running_registry(tmp_path / "registry") as registry:
        yield registry


@pytest.fixture
def private_registry(tmp_path: Path) -> Iterator[Registry]:
    with running_registry(tmp_path / "private", private=True) as registry:
        yield registry


@pytest.fixture
def line(registry: Registry) -> Iterator[Line]:
    """Between the engine and the registry."""
    with line_to(registry.address) as line:
        yield line


class Pull:
    """A pull in a thread, so that something can happen meanwhile."""

    def __init__(
        self, runtime: DockerRuntime, image: str, progress: Callable[[PullProgress], None] | None = None
    ) -> None:
        self.seen: list[PullProgress] = []
        self.error: BaseException | None = None
        self._progress = progress or self.seen.append
        self._thread = threading.Thread(target=self._run, args=(runtime, image), daemon=True)
        self._thread.start()

    def _run(self, runtime: DockerRuntime, image: str) -> None:
        try:
            runtime.pull(image, auth=None, progress=self._progress)
        except BaseException as error:  # told to the test
            self.error = error

    def ended(self, timeout_s: float) -> BaseException | None:
        """What it raised."""
        self._thread.join(timeout_s)
        assert not self._thread.is_alive(), f"still pulling after {timeout_s} s: {self.seen[-1:]}"
        return self.error

    def until(self, done: int) -> None:
        """Until so many bytes have come."""
        eventually(lambda: self.error or (self.seen and self.seen[-1].done >= done), f"{done} bytes", 30)


def test_the_bytes_of_a_pull_grow_to_their_total(
    runtime: DockerRuntime, registry: Registry, line: Line
) -> None:
    image = f"{line.address}/{registry.put(layers=[LAYER_BYTES, 500_000, 400_000, 300_000, 200_000])}"
    line.bytes_per_s = 4e6
    seen: list[PullProgress] = []
    assert not runtime.has_image(image)
    runtime.pull(image, auth=None, progress=seen.append)
    assert runtime.has_image(image)
    assert len(seen) >= 4
    done = [step.done for step in seen]
    assert done == sorted(done)
    assert all(step.done <= step.total for step in seen)
    # An engine fetches three layers at a time; of the others the size is not known before.
    assert max(step.waiting for step in seen) >= 2
    assert seen[-1].done == seen[-1].total
    assert seen[-1].waiting == 0
    assert abs(seen[-1].total - LAYER_BYTES - 1_400_000) < 50_000
    before = len(seen)
    runtime.pull(image, auth=None, progress=seen.append)  # it is there
    assert len(seen) == before


def test_a_slow_registry_shows_its_real_pace(runtime: DockerRuntime, registry: Registry, line: Line) -> None:
    image = f"{line.address}/{registry.put()}"
    line.bytes_per_s = 600_000
    at: list[tuple[float, int]] = []
    runtime.pull(image, auth=None, progress=lambda step: at.append((time.monotonic(), step.done)))
    moving = [(moment, done) for moment, done in at if 0 < done < LAYER_BYTES * 0.95]
    (begun, first), (ended, last) = moving[0], moving[-1]
    assert len(moving) >= 8
    assert 450_000 < (last - first) / (ended - begun) < 750_000
    assert max(later - earlier for (earlier, _), (later, _) in itertools.pairwise(moving)) < 2


def test_what_progress_raises_ends_the_pull(runtime: DockerRuntime, registry: Registry, line: Line) -> None:
    line.bytes_per_s = 200_000

    class Unwanted(OSError):
        """Even one that looks like a broken connection comes out as it is."""

    def refuse(progress: PullProgress) -> None:
        raise Unwanted

    pull = Pull(runtime, f"{line.address}/{registry.put()}", refuse)
    assert isinstance(pull.ended(10), Unwanted)


def test_a_pull_that_hangs_is_given_up_when_nobody_wants_it(
    runtime: DockerRuntime, registry: Registry, line: Line
) -> None:
    """The engine itself waits for ever for the rest of a layer."""
    image = f"{line.address}/{registry.put()}"
    line.hold(after=1_000_000)
    wanted = threading.Event()
    wanted.set()
    steps: list[PullProgress] = []

    class Unwanted(Exception):
        pass

    def while_wanted(progress: PullProgress) -> None:
        steps.append(progress)
        if not wanted.is_set():
            raise Unwanted

    pull = Pull(runtime, image, while_wanted)
    eventually(lambda: line.passed >= 1_000_000, "the layer is on its way")
    silent = len(steps)
    eventually(lambda: len(steps) >= silent + 3, "told although nothing moves", 10)
    wanted.clear()
    asked = time.monotonic()
    assert isinstance(pull.ended(10), Unwanted)
    assert time.monotonic() - asked < 4
    # The engine drops it as well, once it is told something: slowly, so that it can before the layer is whole.
    line.bytes_per_s = 400_000
    line.go_on()
    passed = line.passed
    assert not [thread for thread in threading.enumerate() if thread.name == "pull-reader"]
    eventually(lambda: not runtime.has_image(image), "no image")
    assert passed <= line.passed < LAYER_BYTES


def test_a_private_image_needs_the_right_credentials(
    runtime: DockerRuntime, private_registry: Registry, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    image = f"{private_registry.address}/{private_registry.put()}"
    for auth in (None, RegistryAuth(USER, "wrong"), RegistryAuth("nobody", PASSWORD)):
        with pytest.raises(ImageDenied) as failure:
            runtime.pull(image, auth=auth)
        assert failure.value.evidence
        assert PASSWORD not in failure.value.evidence
    runtime.pull(image, auth=RegistryAuth(USER, PASSWORD))
    assert runtime.has_image(image)
    assert PASSWORD not in caplog.text + repr(RegistryAuth(USER, PASSWORD))


def test_the_operators_own_login_is_not_used(
    runtime: DockerRuntime, private_registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = f"{private_registry.address}/{private_registry.put()}"
    secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    auths = {"auths": {private_registry.address: {"auth": secret}}}
    (tmp_path / "config.json").write_text(json.dumps(auths))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(ImageDenied):
        DockerRuntime("x").pull(image, auth=None)


@pytest.mark.parametrize("image", ["image:2", "nothing:1", "a/b/c:1"])
def test_an_image_that_does_not_exist(runtime: DockerRuntime, registry: Registry, image: str) -> None:
    registry.put("image", "1", [1000])
    with pytest.raises(ImageMissing) as failure:
        runtime.pull(f"{registry.address}/{image}", auth=None)
    assert failure.value.evidence


@pytest.mark.parametrize("image", ["127.0.0.1:1/x:1", "registry.invalid/x:1"])
def test_a_registry_that_cannot_be_reached(runtime: DockerRuntime, image: str) -> None:
    with pytest.raises(RegistryUnreachable):
        runtime.pull(image, auth=None)


def test_a_registry_that_comes_back(runtime: DockerRuntime, registry: Registry) -> None:
    image = f"{registry.address}/{registry.put()}"
    registry.stop()
    with pytest.raises(RegistryUnreachable, match="connection refused"):
        runtime.pull(image, auth=None)
    registry.start()
    runtime.pull(image, auth=None)
    assert runtime.has_image(image)


def test_a_line_that_breaks_in_the_middle_of_a_layer_costs_no_pull(
    runtime: DockerRuntime, registry: Registry, line: Line
) -> None:
    """The engine tries again by itself, and goes on where it was."""
    image = f"{line.address}/{registry.put()}"
    line.bytes_per_s = 3e6
    line.cut(after=1_500_000)
    pull = Pull(runtime, image)
    pull.until(1_000_000)
    eventually(lambda: line.passed >= 1_500_000, "the line broke")
    line.open()
    assert pull.ended(40) is None
    assert pull.seen[-1].done == pull.seen[-1].total >= LAYER_BYTES
    done = [step.done for step in pull.seen]
    assert done == sorted(done)
    assert runtime.has_image(image)


def test_a_registry_that_dies_in_the_middle_of_a_layer(registry: Registry, line: Line) -> None:
    """And stays away. An engine of our own that tries once gives up in seconds instead of a minute."""
    image = f"{line.address}/{registry.put()}"
    line.cut(after=1_500_000)
    with small_engine("--max-download-attempts", "1") as runtime:
        pull = Pull(runtime, image)
        assert isinstance(pull.ended(30), RegistryUnreachable)
        assert 0 < pull.seen[-1].done < pull.seen[-1].total
        line.open()
        runtime.pull(image, auth=None)
        assert runtime.has_image(image)


def test_an_engine_whose_disk_is_full(registry: Registry) -> None:
    image = f"{registry.address}/{registry.put(layers=[60_000_000])}"
    with small_engine(disk_mb=40) as runtime:
        with pytest.raises(NoSpace) as failure:
            runtime.pull(image, auth=None)
        assert "no space left on device" in failure.value.evidence
        runtime.pull(f"{registry.address}/{registry.put('small', layers=[1_000_000])}", auth=None)


def small_engine(*flags: str, disk_mb: int = 64) -> SmallEngine:
    return SmallEngine(flags, disk_mb)


class SmallEngine:
    """An engine of the test's own with a driver for it."""

    def __init__(self, flags: tuple[str, ...], disk_mb: int) -> None:
        folder = Path(tempfile.mkdtemp(prefix="berth-engine-"))
        self._engine = engine_of_its_own(folder, *flags, disk_mb=disk_mb)

    def __enter__(self) -> DockerRuntime:
        return DockerRuntime("test", base_url=self._engine.__enter__().url)

    def __exit__(self, *error: object) -> None:
        self._engine.__exit__(*error)  # type: ignore[arg-type]


def test_a_name_that_is_none(runtime: DockerRuntime) -> None:
    for name in ("Upper Case", "", "a:b:c", "-x"):
        with pytest.raises(RuntimeFailure) as failure:
            runtime.pull(name, auth=None)
        assert not failure.value.transient


def test_our_own_image_is_built_never_pulled(runtime: DockerRuntime) -> None:
    image = images.llama_cpp_image()
    runtime.pull(image, auth=None)
    assert runtime.has_image(image)
    with pytest.raises(RuntimeFailure, match="another version"):
        runtime.pull(f"{images.LLAMA_CPP_REPOSITORY}:{uuid.uuid4().hex}", auth=None)


def test_layers_whose_size_is_not_told_yet_are_counted() -> None:
    layers = _Layers()
    said = [
        {"id": "1", "status": "Pulling from image"},
        {"id": "a", "status": "Pulling fs layer"},
        {"id": "b", "status": "Pulling fs layer"},
        {"id": "c", "status": "Already exists"},
        {"id": "b", "status": "Waiting"},
        {"id": "a", "status": "Downloading", "progressDetail": {"current": 10, "total": 100}},
        {"id": "a", "status": "Downloading", "progressDetail": {"current": 60, "total": 100}},
        {
            "id": "a",
            "status": "Downloading",
            "progressDetail": {"current": 100, "total": 100},
        },  # the line broke
        {"id": "a", "status": "Retrying in 5 seconds"},
        {
            "id": "a",
            "status": "Downloading",
            "progressDetail": {"current": 10, "total": 40},
        },  # of what was missing
        {"id": "b", "status": "Download complete"},  # one that came at a stroke never told its size
        {"id": "a", "status": "Download complete"},
        {"id": "a", "status": "Extracting", "progressDetail": {"current": 1, "total": 100}},
        {"id": "a", "status": "Pull complete"},
        {"status": "Digest: sha256:0"},
    ]
    sums = []
    for message in said:
        before = layers.sum()
        assert layers.note(message) == (layers.sum() != before)
        sums.append(layers.sum())
    assert [step.done for step in sums] == [*[0] * 5, 10, 60, 60, 60, 70, 70, *[100] * 4]
    assert [step.waiting for step in sums] == [0, 1, 2, 2, 2, *[1] * 5, *[0] * 5]
    assert sums[-1] == PullProgress(100, 100, 0)
