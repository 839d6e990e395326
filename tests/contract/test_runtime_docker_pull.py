"""Pulls from a registry of our own: bytes as they come, and each way to fail told apart."""

from __future__ import annotations

import base64
import json
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from runtimes import images
from runtimes.contract import PullProgress, RegistryAuth
from runtimes.docker import DockerRuntime
from runtimes.errors import ImageDenied, ImageMissing, RegistryUnreachable, RuntimeFailure
from tests.contract.drivers import DockerDriver
from tests.contract.image_registry import LAYER_BYTES, PASSWORD, USER, Registry, running_registry

pytestmark = pytest.mark.engine


@pytest.fixture
def runtime(tmp_path: Path) -> Iterator[DockerRuntime]:
    driver = DockerDriver(tmp_path)
    yield driver.runtime
    driver.close()


@pytest.fixture
def registry(runtime: DockerRuntime) -> Iterator[Registry]:
    with running_registry() as registry:
        yield registry
        if runtime.has_image(f"{registry.address}/image:1"):
            runtime._api().remove_image(f"{registry.address}/image:1", force=True)


def test_a_pull_reports_its_bytes(runtime: DockerRuntime, registry: Registry) -> None:
    registry.delay_s = 0.05
    seen: list[PullProgress] = []
    image = f"{registry.address}/image:1"
    assert not runtime.has_image(image)
    runtime.pull(image, auth=None, progress=seen.append)
    assert runtime.has_image(image)
    assert len(seen) >= 3
    assert [step.done for step in seen] == sorted(step.done for step in seen)
    assert 0 < seen[0].done < seen[0].total
    assert seen[-1].done == seen[-1].total
    assert abs(seen[-1].total - LAYER_BYTES) < 50_000
    before = len(seen)
    runtime.pull(image, auth=None, progress=seen.append)  # it is there
    assert len(seen) == before


def test_what_progress_raises_ends_the_pull(runtime: DockerRuntime, registry: Registry) -> None:
    registry.delay_s = 0.2

    class Unwanted(OSError):
        """Even one that looks like a broken connection comes out as it is."""

    def refuse(progress: PullProgress) -> None:
        raise Unwanted

    with pytest.raises(Unwanted):
        runtime.pull(f"{registry.address}/image:1", auth=None, progress=refuse)


def test_a_private_image_needs_the_right_credentials(runtime: DockerRuntime, registry: Registry) -> None:
    registry.private = True
    image = f"{registry.address}/image:1"
    for auth in (None, RegistryAuth(USER, "wrong"), RegistryAuth("nobody", PASSWORD)):
        with pytest.raises(ImageDenied) as failure:
            runtime.pull(image, auth=auth)
        assert failure.value.evidence
        assert PASSWORD not in failure.value.evidence
    runtime.pull(image, auth=RegistryAuth(USER, PASSWORD))
    assert runtime.has_image(image)


def test_the_operators_own_login_is_not_used(
    runtime: DockerRuntime, registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.private = True
    secret = base64.b64encode(f"{USER}:{PASSWORD}".encode()).decode()
    (tmp_path / "config.json").write_text(json.dumps({"auths": {registry.address: {"auth": secret}}}))
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    with pytest.raises(ImageDenied):
        DockerRuntime("x").pull(f"{registry.address}/image:1", auth=None)


@pytest.mark.parametrize("image", ["image:2", "nothing:1", "a/b/c:1"])
def test_an_image_that_does_not_exist(runtime: DockerRuntime, registry: Registry, image: str) -> None:
    with pytest.raises(ImageMissing) as failure:
        runtime.pull(f"{registry.address}/{image}", auth=None)
    assert failure.value.evidence


@pytest.mark.parametrize("image", ["127.0.0.1:1/x:1", "registry.invalid/x:1"])
def test_a_registry_that_cannot_be_reached(runtime: DockerRuntime, image: str) -> None:
    with pytest.raises(RegistryUnreachable):
        runtime.pull(image, auth=None)


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
