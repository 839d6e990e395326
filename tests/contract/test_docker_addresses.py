"""The Docker driver chooses its containers' addresses itself: none that is held back, none that another one has."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from runtimes.contract import ContainerSpec
from runtimes.docker import DockerRuntime
from runtimes.docker_network import network_name
from runtimes.docker_spec import container_config
from runtimes.errors import AddressPoolExhausted
from tests.contract.drivers import DockerDriver

pytestmark = pytest.mark.engine
SERVE = ("serve", "{{port}}")


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[DockerDriver]:
    driver = DockerDriver(tmp_path)
    yield driver
    driver.close()


def address_of(runtime: DockerRuntime, spec: ContainerSpec, *avoid: tuple[str, int]) -> str:
    address = runtime.start(spec, avoid=frozenset(avoid)).address
    assert address is not None
    return address.host


def rivals(spec: ContainerSpec, count: int) -> list[ContainerSpec]:
    """Containers whose names lead to the same first choice of an address."""

    def choice(name: str) -> int:
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") % 61

    names = (f"{spec.name}-{number}" for number in itertools.count())
    same = (name for name in names if choice(name) == choice(spec.name))
    return [replace(spec, name=name) for name in itertools.islice(same, count)]


def test_no_network_is_made_around_a_held_address(driver: DockerDriver) -> None:
    runtime = DockerRuntime(driver.owner, subnet_pool="10.214.254.0/26")  # room for one network
    spec = driver.spec("a", *SERVE)
    address = address_of(runtime, spec)
    runtime.remove(spec.name)
    runtime.remove_network(driver.network)
    with pytest.raises(AddressPoolExhausted, match="held back"):
        runtime.start(spec, avoid=frozenset({(address, 1)}))
    assert runtime.list() == []
    assert address_of(runtime, spec, ("10.1.2.3", 8080), ("::1", 8080), ("a name", 1)) == address


def test_all_addresses_of_a_network_held_back(driver: DockerDriver) -> None:
    address_of(driver.runtime, driver.spec("a", *SERVE))
    (network,) = driver.runtime._api().networks(names=[network_name(driver.network)])
    prefix, _, last = network["IPAM"]["Config"][0]["Subnet"].partition("/")[0].rpartition(".")
    held = frozenset((f"{prefix}.{int(last) + number}", 8080) for number in range(64))
    with pytest.raises(AddressPoolExhausted, match="all 61 addresses"):
        driver.runtime.start(driver.spec("b", *SERVE), avoid=held)


def test_one_that_was_made_and_not_started_keeps_its_address(driver: DockerDriver) -> None:
    first = driver.spec("a", *SERVE)
    (second,) = rivals(first, 1)
    for spec in (first, second):
        assert driver.runtime._create(spec)
    assert address_of(driver.runtime, second) != address_of(driver.runtime, first)


def test_one_that_was_made_before_its_address_was_held_is_made_anew(driver: DockerDriver) -> None:
    spec = driver.spec("a", *SERVE)
    first = address_of(driver.runtime, spec)
    driver.runtime.remove(spec.name)
    assert driver.runtime._create(spec)
    assert address_of(driver.runtime, spec, (first, 8080)) != first


def test_an_address_that_a_stranger_has_taken_is_left_to_him(driver: DockerDriver) -> None:
    first = driver.spec("a", *SERVE)
    (second,) = rivals(first, 1)
    wanted = address_of(driver.runtime, first)
    driver.runtime.remove(first.name)
    api = driver.runtime._api()
    (network,) = api.networks(names=[network_name(driver.network)])
    config = container_config(
        first, owner="somebody-else", network_id=network["Id"], published=False, address=wanted
    )
    stranger = api.create_container_from_config(config, f"{first.name}-stranger")["Id"]
    try:
        api.start(stranger)
        assert address_of(driver.runtime, second) != wanted
    finally:
        api.remove_container(stranger, force=True)


def test_many_at_once_that_want_the_same_address(driver: DockerDriver) -> None:
    specs = rivals(driver.spec("a", *SERVE), 5)
    with ThreadPoolExecutor(len(specs)) as pool:
        found = list(pool.map(lambda spec: address_of(driver.another(), spec), specs))
    assert len(set(found)) == len(specs)
    assert {item.address.host for item in driver.runtime.list() if item.address} == set(found)


def test_a_published_port_that_is_held_is_not_used(driver: DockerDriver) -> None:
    runtime = DockerRuntime(driver.owner, reach="published")
    spec = driver.spec("a", *SERVE)
    first = runtime.start(spec).address
    assert first is not None
    runtime.remove(spec.name)
    held = frozenset(
        ("127.0.0.1", port) for port in range(first.port, first.port + 3)
    )  # the engine counts up
    again = runtime.start(spec, avoid=held).address
    assert again is not None
    assert (again.host, again.port) not in held
