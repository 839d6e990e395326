"""Addresses that users write down and our machines go to: import, image, health path. A listener of the test's own
stands for whatever is inside; it hears nothing."""

from __future__ import annotations

import secrets
import socket
import threading
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import redis
from django.core.exceptions import ValidationError

from endpoints.errors import describe
from endpoints.reconciler import probe
from iam.actors import Actor
from registry import registries, services
from registry.models import RegisteredModel, Source
from registry.validation import clean_image
from runtimes.contract import Address
from runtimes.docker import DockerRuntime
from tests.support_deploy import Driver
from tests.support_endpoints import load_data, new_endpoint, ready_model
from tests.support_runtimes import remove_all


class Inside:
    """Something on loopback that nobody outside has business with; it counts who comes."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.heard: list[bytes] = []
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            with client:
                client.settimeout(1)
                try:
                    self.heard.append(client.recv(4096))
                    client.sendall(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\nconnection: close\r\n\r\n")
                except OSError:
                    self.heard.append(b"")

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture
def inside() -> Iterator[Inside]:
    made = Inside()
    yield made
    made.close()


@pytest.fixture(autouse=True)
def _as_shipped(settings: Any) -> None:
    settings.BERTH_IMAGE_REGISTRIES = ["public"]


# --- images -----------------------------------------------------------------------------------------------

# What stands for a host within the machine or its network, in all the ways that resolvers read.
WITHIN = [
    *("localhost", "LOCALHOST", "a.localhost", "127.0.0.1", "127.1.2.3", "0.0.0.0", "10.0.0.5", "172.17.0.1"),
    *("192.168.1.1", "169.254.169.254", "100.64.0.1", "224.0.0.1", "[::1]", "[::]", "[fe80::1]", "[fd00::1]"),
    *("[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[64:ff9b::7f00:1]", "[2002:7f00:1::]", "127.1", "0x7f.0.0.1"),
    *("0177.0.0.1", "2130706433", "0x7f000001", "017700000001", "2852039166"),
]  # fmt: skip
OUTSIDE = [
    *(
        "llama",
        "team/llama:1",
        "ghcr.io/a/b",
        "registry.example.com:5000/a/b:1",
        "1.1.1.1/a/b",
        "[2606:4700::1]/a",
    ),
    *("localhost/b", "2130706433/b", "a@sha256:" + "0" * 64),
]


def told(image: str) -> list[str]:
    errors: dict[str, list[str]] = {}
    clean_image(image, 80, "/", errors)
    return errors.get("image", [])


@pytest.mark.parametrize("host", WITHIN)
def test_an_image_is_not_fetched_from_within(host: str) -> None:
    for image in (f"{host}:5000/team/server:1", f"{host}:80/server"):
        assert told(image), image
    (words,) = told("10.0.0.5:5000/team/server:1")
    assert "10.0.0.5" in words
    assert "BERTH_IMAGE_REGISTRIES=public,10.0.0.5:5000" in words


def test_public_ones_are() -> None:
    refused = {image: told(image) for image in OUTSIDE}
    assert {image for image, words in refused.items() if words} == {"localhost/b"}


@pytest.mark.parametrize(
    "image",
    [
        *("http://127.0.0.1/x", "//127.0.0.1/x", "user@127.0.0.1:5000/x", "127.0.0.1:5000/../x", "a\r\nb", "a b/x"),
        *("127.0.0.1#.example.com/x", "127.0.0.1%00.example.com/x", "127。0。0。1/x", "ⓛocalhost/x", "localhost./x"),
    ],
)  # fmt: skip
def test_what_is_no_reference_is_none(image: str) -> None:
    assert "no image reference" in told(image)[0]


def test_who_runs_the_platform_decides(settings: Any) -> None:
    settings.BERTH_IMAGE_REGISTRIES = ["public", "127.0.0.1:5000", "*.corp", "[::1]:*"]
    assert [told(f"{host}/x") for host in ("127.0.0.1:5000", "a.corp:443", "[::1]:5000", "ghcr.io")] == [
        []
    ] * 4
    assert told("127.0.0.1:5001/x")
    settings.BERTH_IMAGE_REGISTRIES = ["ghcr.io"]
    assert told("ghcr.io/x") == []
    assert "ghcr.io" in told("server")[0]
    assert told("evil.example/ghcr.io/x")
    settings.BERTH_IMAGE_REGISTRIES = ["*"]
    assert told("127.0.0.1:5001/x") == []


def test_a_name_that_leads_inside_is_refused_when_it_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    answers = {"mixed.example": ["93.184.216.34", "127.0.0.1"], "good.example": ["93.184.216.34"]}

    def look_up(name: str, *_: Any, **__: Any) -> list[Any]:
        if name not in answers:
            raise socket.gaierror
        return [(0, 0, 0, "", (address, 0)) for address in answers[name]]

    monkeypatch.setattr(registries.socket, "getaddrinfo", look_up)
    assert "127.0.0.1" in registries.refusal("mixed.example/x", look_up=True)
    assert registries.refusal("good.example/x", look_up=True) == ""
    assert registries.refusal("unknown.example/x", look_up=True) == ""
    assert registries.refusal("mixed.example/x", look_up=False) == "", "pages wait for no resolver"


@pytest.mark.django_db(transaction=True)
@pytest.mark.engine
@pytest.mark.redis
def test_the_engine_is_not_sent_there(
    inside: Inside, editor_actor: Actor, redis_server: redis.Redis, settings: Any
) -> None:
    """However the image came into the database; and it is sent there once that is allowed."""
    load_data()
    installation = f"test-{secrets.token_hex(6)}"
    drive = Driver(DockerRuntime(installation))
    host = f"127.0.0.1:{inside.port}"
    ref = {"image": f"{host}/a/b:1", "port": 8080, "health_path": "/"}
    try:
        for name, allowed in (("refused", ["public"]), ("allowed", ["public", host])):
            settings.BERTH_IMAGE_REGISTRIES = allowed
            model = ready_model(
                editor_actor.project, name, "custom", source=Source.IMAGE, source_ref=ref, entry_file=""
            )
            endpoint = new_endpoint(editor_actor, model, name=name)
            if name == "allowed":
                drive.until(endpoint, lambda _: bool(inside.heard))
            else:
                endpoint = drive.to(endpoint, "FAILED")
                assert endpoint.reason_code == "registry_not_allowed"
                assert inside.heard == []
                words = describe(endpoint.reason_code, endpoint.reason_params)
                assert f"{host}/a/b:1" in words.message
                assert "BERTH_IMAGE_REGISTRIES" in endpoint.replicas.get().evidence["error"]
    finally:
        remove_all(installation)


# --- imports ----------------------------------------------------------------------------------------------


@pytest.mark.django_db
def test_a_repository_is_no_address(inside: Inside, editor_actor: Actor, settings: Any) -> None:
    """Only the operator says where the hub is."""
    load_data()
    there = f"127.0.0.1:{inside.port}"
    settings.HF_ENDPOINT = "http://hub.invalid"
    for repo_id in (
        *(f"http://{there}/a/b", f"//{there}/a/b", f"{there}/b", f"http://hub.invalid@{there}/a/b", f"@{there}/b"),
        *(f"http://hub.invalid.{there}/a/b", "../../a", "a/../b", "a/b/../../c", "a/b\r\nHost: x", "a/b?x", "a/b#x"),
        *("a/b%2f..", "file:///etc/passwd", "\\\\host\\share", "http://hub.invalid/..%2f/x", "http://hub.invalid//"),
    ):  # fmt: skip
        spec = services.ImportSpec("zz", "vllm", Source.HUGGING_FACE, repo_id=repo_id, hub_token="hf_x")
        with pytest.raises(ValidationError) as refused:
            services.import_model(editor_actor, spec)
        assert set(refused.value.message_dict) == {"repo_id"}, repo_id
    for revision in ("../../x", "a b", "x\r\nHost: y", f"@{there}", "//x", "x?y", "x#y"):
        spec = services.ImportSpec("zz", "vllm", Source.HUGGING_FACE, repo_id="a/b", revision=revision)
        with pytest.raises(ValidationError):
            services.import_model(editor_actor, spec)
    assert not RegisteredModel.objects.exists()
    assert inside.heard == []


# --- health paths -----------------------------------------------------------------------------------------


def test_a_health_path_stays_at_its_replica() -> None:
    replica, inside = Inside(), Inside()
    try:
        there = f"127.0.0.1:{inside.port}"
        paths = (
            *(f"//{there}/x", f"/@{there}/x", f"/\\{there}/x", f"/..//{there}/x", f"/x?u=http://{there}/"),
            *(f"/#@{there}", f"/%0d%0aHost:%20{there}", f"/x;//{there}", f"///{there}", "/a/../../b"),
            *("/[", "/%zz", "/:80/"),
        )  # fmt: skip
        for path in paths:
            errors: dict[str, list[str]] = {}
            clean_image("a", 80, path, errors)
            assert errors == {}, path
            url = probe.url(Address("127.0.0.1", replica.port), path)
            probe.healthy({"it": url})
            probe.status(url)
        assert inside.heard == []
        assert len(replica.heard) >= 2 * (len(paths) - 2)
        for heard in replica.heard:
            assert heard.count(b"\r\nHost: ") == 1
            assert f"\r\nHost: 127.0.0.1:{replica.port}\r\n".encode() in heard
    finally:
        replica.close()
        inside.close()


@pytest.mark.parametrize(
    "path",
    [
        "@evil/x",
        "evil/x",
        "http://evil/x",
        ":80/x",
        "/x\r\nHost: y",
        "/x y",
        "/\tx",
        "/ü",
        "?x",
        "/" + "x" * 300,
    ],
)
def test_what_is_no_path_is_refused(path: str) -> None:
    errors: dict[str, list[str]] = {}
    clean_image("a", 80, path, errors)
    assert set(errors) == {"health_path"}


def test_an_ipv6_replica_is_asked_by_its_own_address() -> None:
    assert httpx.URL(probe.url(Address("fd00::7", 80), "//evil/x")).host == "fd00::7"
