"""What a container of ours is, read back from a real engine, and what it cannot reach."""

from __future__ import annotations

import ipaddress
import shutil
import socket
import subprocess
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runtimes.contract import ContainerSpec, ContainerState, Mount
from runtimes.docker import DockerRuntime
from runtimes.docker_network import BRIDGE_PREFIX, network_name, protect_host
from runtimes.docker_spec import container_config
from runtimes.errors import AddressPoolExhausted, GpuUnavailable, ImageMissing, InvalidSpec
from tests.contract.drivers import DockerDriver, exited, wait_for
from tests.contract.outside import can_connect, outside_world

pytestmark = pytest.mark.engine
SERVE = ("serve", "{{port}}")
MIB = 1024**2


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[DockerDriver]:
    driver = DockerDriver(tmp_path)
    yield driver
    driver.close()


def inspected(driver: DockerDriver, spec: ContainerSpec) -> dict[str, Any]:
    facts: dict[str, Any] = driver.runtime._api().inspect_container(spec.name)
    return facts


def said(driver: DockerDriver, name: str, *words: str, **fields: Any) -> str:
    """What a replica prints that ends by itself."""
    spec = driver.spec(name, *words, **fields)
    driver.runtime.start(spec)
    exited(driver.runtime, spec.name)
    return driver.runtime.logs(spec.name)


# ---- the container


def test_every_restriction_stands_in_the_engine(driver: DockerDriver, tmp_path: Path) -> None:
    spec = driver.spec(
        "a",
        *SERVE,
        cpus=0.5,
        memory_bytes=128 * MIB,
        shm_bytes=16 * MIB,
        pids_limit=64,
        tmpfs={"/tmp": 8 * MIB},
        env={"ADDRESS": "{{host}}:{{port}}"},
        labels={"berth.endpoint": "me-1", "berth.replica": "r1", "berth.revision": "3"},
        user="65534:65534",
        stop_grace_s=7,
    )
    driver.runtime.start(spec)
    facts = inspected(driver, spec)
    host, config = facts["HostConfig"], facts["Config"]
    assert host["CapDrop"] == ["ALL"]
    assert not host["CapAdd"]
    assert not host["Privileged"]
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert not any("seccomp" in option for option in host["SecurityOpt"])  # the engine's own profile
    assert host["ReadonlyRootfs"] is True
    assert host["PidsLimit"] == 64
    assert host["NanoCpus"] == 500_000_000
    assert host["Memory"] == host["MemorySwap"] == 128 * MIB
    assert host["ShmSize"] == 16 * MIB
    assert host["Tmpfs"] == {"/tmp": f"rw,exec,nosuid,nodev,size={8 * MIB}"}
    assert host["LogConfig"] == {"Type": "json-file", "Config": {"max-size": "10000000", "max-file": "2"}}
    assert host["RestartPolicy"]["Name"] == "no"
    assert not host["PublishAllPorts"]
    assert not host["PortBindings"]
    assert host["IpcMode"] == "private"
    assert not host["PidMode"]
    assert not host["Binds"]
    assert not host["DeviceRequests"]
    assert [(mount["Type"], mount["Destination"], mount["RW"]) for mount in facts["Mounts"]] == [
        ("bind", "/probe/replica.py", False)
    ]
    assert list(facts["NetworkSettings"]["Networks"]) == [network_name(driver.network)]
    assert config["User"] == "65534:65534"
    assert config["StopTimeout"] == 7
    assert config["Healthcheck"] == {"Test": ["NONE"]}
    assert "ADDRESS=0.0.0.0:8080" in config["Env"]
    assert config["Cmd"] == ["serve", "8080"]
    assert {
        "berth.owner": driver.owner,
        "berth.endpoint": "me-1",
        "berth.replica": "r1",
        "berth.revision": "3",
    }.items() <= config["Labels"].items()


def test_the_kernel_agrees(driver: DockerDriver) -> None:
    status = said(driver, "a", "show", "/proc/self/status")
    facts = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert facts["Uid"].split() == ["65532"] * 4  # the image's own account
    for kind in ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb"):
        assert int(facts[kind], 16) == 0, kind
    assert facts["NoNewPrivs"].strip() == "1"
    assert facts["Seccomp"].strip() == "2"


def test_mounts_are_read_only_and_must_exist(driver: DockerDriver, tmp_path: Path) -> None:
    weights = tmp_path / "weights"
    weights.mkdir(mode=0o755)
    (weights / "word").write_text("hello")
    mount = Mount(str(weights), "/models")
    assert said(driver, "a", "show", "/models/word", mounts=(mount,)) == "hello\n"
    assert "EROFS" in said(driver, "b", "write", "/models/word", mounts=(mount,))
    assert "EROFS" in said(driver, "c", "write", "/etc/word")
    assert (weights / "word").read_text() == "hello"
    with pytest.raises(InvalidSpec, match="nowhere"):
        driver.runtime.start(driver.spec("d", *SERVE, mounts=(Mount(str(tmp_path / "nowhere"), "/models"),)))
    assert not (tmp_path / "nowhere").exists()


def test_equal_specifications_make_equal_requests(driver: DockerDriver) -> None:
    one, two = driver.spec("a", *SERVE, cpus=1), driver.spec("a", *SERVE, cpus=1)
    assert one == two
    bodies = [container_config(spec, owner="o", network_id="n", published=False) for spec in (one, two)]
    assert bodies[0] == bodies[1]


def test_gpus_are_asked_for_by_id(driver: DockerDriver) -> None:
    spec = driver.spec("a", "environment", gpu_ids=("GPU-aaaa", "GPU-bbbb"))
    body = container_config(spec, owner="o", network_id="n", published=False)
    (request,) = body["HostConfig"]["DeviceRequests"]
    assert request["DeviceIDs"] == ["GPU-aaaa", "GPU-bbbb"]
    assert request["Capabilities"] == [["gpu"]]
    refusal = None
    try:
        driver.runtime.start(spec)
    except GpuUnavailable as failure:
        refusal = failure
    if refusal:  # an engine without NVIDIA's hook: then the attempt must leave nothing behind
        assert "device driver" in refusal.evidence
        assert driver.runtime.observe(spec.name) is None
        return
    exited(driver.runtime, spec.name)
    # The engine hands the ids to NVIDIA's hook in this variable, and only to this container.
    assert "'NVIDIA_VISIBLE_DEVICES': 'GPU-aaaa,GPU-bbbb'" in driver.runtime.logs(spec.name)
    assert "NVIDIA_VISIBLE_DEVICES" not in said(driver, "b", "environment")


def test_what_the_engine_refuses(driver: DockerDriver) -> None:
    with pytest.raises(InvalidSpec):
        driver.runtime.start(driver.spec("a", *SERVE, memory_bytes=1000))
    with pytest.raises(InvalidSpec):
        driver.runtime.start(driver.spec("b", *SERVE, cpus=100_000))
    with pytest.raises(ImageMissing):
        driver.runtime.start(driver.spec("c", *SERVE, image="berth/never-built:1"))
    with pytest.raises(InvalidSpec):
        driver.runtime.start(replace(driver.spec("d", *SERVE), name="no/name"))
    assert driver.runtime.list() == []


def test_a_worker_that_died_between_create_and_start(driver: DockerDriver) -> None:
    spec = driver.spec("a", *SERVE)
    assert driver.runtime._create(spec)
    seen = driver.runtime.observe(spec.name)
    assert seen is not None
    assert seen.state is ContainerState.CREATED
    started = driver.another().start(spec)
    assert (started.state, started.runtime_id) == (ContainerState.RUNNING, seen.runtime_id)


def test_removal_leaves_nothing(driver: DockerDriver) -> None:
    api = driver.runtime._api()
    spec = driver.spec("a", *SERVE)
    driver.runtime.start(spec)
    driver.runtime.remove_network(driver.network)  # in use: stays
    assert api.networks(names=[network_name(driver.network)])
    driver.runtime.remove(spec.name)
    driver.runtime.remove_network(driver.network)
    driver.runtime.remove_network(driver.network)
    assert not api.networks(names=[network_name(driver.network)])
    assert not api.containers(all=True, filters={"label": f"berth.owner={driver.owner}"})


# ---- the network


def test_networks_are_small_internal_and_named_for_the_firewall(driver: DockerDriver) -> None:
    driver.runtime.start(driver.spec("a", *SERVE))
    (network,) = driver.runtime._api().networks(names=[network_name(driver.network)])
    assert network["Internal"] is True
    assert network["EnableIPv6"] is False
    assert network["Options"]["com.docker.network.bridge.enable_icc"] == "false"
    bridge = network["Options"]["com.docker.network.bridge.name"]
    assert bridge.startswith(BRIDGE_PREFIX)
    assert len(bridge) == 15
    (pool,) = network["IPAM"]["Config"]
    assert pool["Subnet"].startswith("10.213.")
    assert pool["Subnet"].endswith("/26")


def test_nobody_but_the_host_reaches_a_replica(driver: DockerDriver) -> None:
    other = f"{driver.network}b"
    driver.networks.add(other)
    here = driver.runtime.start(driver.spec("here", *SERVE)).address
    there = driver.runtime.start(driver.spec("there", *SERVE, network=other)).address
    assert here is not None
    assert there is not None
    for address in (here, there):
        wait_for(lambda host=address.host: can_connect(host, 8080), "the host to reach the replica")
    with outside_world() as outside:
        targets = [f"{here.host}:8080", f"{there.host}:8080", outside]  # its own project, another, the world
        closed = said(driver, "closed", "connect", "127.0.0.1:1", *targets)
        driver.runtime = DockerRuntime(
            driver.owner, reach="published"
        )  # a network with a way out: the control
        other = f"{driver.network}c"
        driver.networks.add(other)
        assert said(driver, "open", "connect", outside, network=other) == f"{outside} open\n"
    answers = dict(line.split(" ", 1) for line in closed.splitlines())
    assert answers["127.0.0.1:1"] == "ECONNREFUSED"  # the probe can tell
    for target in targets:
        assert answers[target] in ("ETIMEDOUT", "ENETUNREACH", "EHOSTUNREACH"), target
    # Resolving goes nowhere either: the engine would carry the question out.
    assert inspected(driver, driver.spec("closed"))["HostConfig"]["Dns"] == ["127.0.0.1"]


def test_two_replicas_of_one_project_could_otherwise_talk(driver: DockerDriver) -> None:
    """The control for the test above: on a network that allows it, the same probe gets through."""
    api = driver.runtime._api()
    network = api.create_network(f"control-{driver.network}", driver="bridge", internal=True)["Id"]
    try:
        config = container_config(
            driver.spec("here", *SERVE), owner=driver.owner, network_id=network, published=False
        )
        api.create_container_from_config(config, driver.spec("here").name)
        api.start(driver.spec("here").name)
        here = driver.runtime.observe(driver.spec("here").name)
        assert here is not None
        assert here.address is not None
        target = f"{here.address.host}:8080"
        wait_for(lambda: can_connect(target.split(":")[0], 8080), "the replica")
        config = container_config(
            driver.spec("probe", "connect", target), owner=driver.owner, network_id=network, published=False
        )
        api.create_container_from_config(config, driver.spec("probe").name)
        api.start(driver.spec("probe").name)
        exited(driver.runtime, driver.spec("probe").name)
        assert driver.runtime.logs(driver.spec("probe").name) == f"{target} open\n"
    finally:
        for name in ("here", "probe"):
            driver.runtime.remove(driver.spec(name).name)
        api.remove_network(network)


def test_the_host_itself_can_be_closed_to_replicas(driver: DockerDriver) -> None:
    iptables = shutil.which("iptables", path="/usr/sbin:/sbin:/usr/bin")
    assert iptables, "iptables is missing: .ci/prepare installs it"
    rule = ["INPUT", "-i", f"{BRIDGE_PREFIX}+", "-m", "conntrack", "--ctstate", "NEW", "-j", "DROP"]
    was_there = subprocess.run([iptables, "-C", *rule], capture_output=True).returncode == 0
    while subprocess.run([iptables, "-D", *rule], capture_output=True).returncode == 0:
        pass
    replica = driver.runtime.start(driver.spec("a", *SERVE)).address
    assert replica is not None
    (network,) = driver.runtime._api().networks(names=[network_name(driver.network)])
    bridge = str(ipaddress.ip_network(network["IPAM"]["Config"][0]["Subnet"])[1])
    try:
        with socket.create_server((bridge, 0)) as service:  # as reachable as one bound to all addresses
            threading.Thread(target=accept_all, args=(service,), daemon=True).start()
            target = f"{bridge}:{service.getsockname()[1]}"
            assert said(driver, "before", "connect", target) == f"{target} open\n"
            assert protect_host()
            assert protect_host()  # once more adds nothing
            rules = subprocess.run([iptables, "-S", "INPUT"], capture_output=True, text=True).stdout
            assert rules.count(f"-i {BRIDGE_PREFIX}+") == 1
            assert said(driver, "after", "connect", target) == f"{target} ETIMEDOUT\n"
            wait_for(lambda: can_connect(replica.host, 8080), "the host to reach the replica still")
    finally:
        if was_there:
            protect_host()
        else:
            subprocess.run([iptables, "-D", *rule], capture_output=True)


def test_a_pool_that_is_used_up(driver: DockerDriver) -> None:
    # Room for two networks. Which of them are free for us is for the engine to say.
    runtime = DockerRuntime(driver.owner, subnet_pool="10.214.255.128/25")
    names = [f"{driver.network}-{letter}" for letter in "abc"]
    driver.networks.update(names)
    for letter, network in zip("ab", names, strict=False):
        runtime.start(driver.spec(letter, *SERVE, network=network))
    with pytest.raises(AddressPoolExhausted, match=r"10\.214\.255\.128/25"):
        runtime.start(driver.spec("c", *SERVE, network=names[2]))
    runtime.remove(driver.spec("a").name)
    runtime.remove_network(names[0])
    assert runtime.start(driver.spec("c", *SERVE, network=names[2])).state is ContainerState.RUNNING


def test_a_foreign_network_of_our_name_is_not_used(driver: DockerDriver) -> None:
    api = driver.runtime._api()
    foreign = api.create_network(network_name(driver.network), driver="bridge", internal=True)["Id"]
    try:
        with pytest.raises(InvalidSpec, match="someone else"):
            driver.runtime.start(driver.spec("a", *SERVE))
    finally:
        api.remove_network(foreign)


def test_where_addresses_cannot_be_reached_a_port_is_published(driver: DockerDriver) -> None:
    runtime = DockerRuntime(driver.owner, reach="published")
    assert "weaker" in runtime.info().isolation
    assert driver.runtime.info().isolation == ""
    spec = driver.spec("a", *SERVE)
    address = runtime.start(spec).address
    assert address is not None
    assert address.host == "127.0.0.1"
    wait_for(lambda: can_connect(address.host, address.port), "the published port")
    # An adopting worker that would choose otherwise sees the port too: it follows from the container.
    seen = driver.another().observe(spec.name)
    assert seen is not None
    assert seen.address == address


def accept_all(service: socket.socket) -> None:
    while True:
        try:
            service.accept()[0].close()
        except OSError:
            return
