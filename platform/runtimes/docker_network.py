"""One bridge network per project: small, explicit subnets, no way out, nobody else on it.

Two workers may create the same network at once. The bridge's name follows from the network's, and the engine lets
only one network have a bridge: that, not the check before it, is what makes creation happen once.
"""

from __future__ import annotations

import hashlib
import ipaddress
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Set
from typing import Any

import docker
import docker.errors

from runtimes.contract import LABEL_OWNER
from runtimes.docker_errors import explanation, from_api, is_missing_network
from runtimes.errors import AddressPoolExhausted, InvalidSpec, RuntimeFailure

BRIDGE_PREFIX = "berth-"  # what the host's firewall rule matches; a bridge's name has at most 15 characters
NAME_PREFIX = "berth-"
DEFAULT_KEY = "default"
SUBNET_BITS = 26  # 61 replicas a project; 1,024 projects in a /16


class Networks:
    """The networks of one installation on one engine. Subnets are /26 of `pool`."""

    def __init__(self, owner: str, pool: str, *, internal: bool) -> None:
        self._owner = owner
        self._pool = ipaddress.IPv4Network(pool)
        self._internal = internal

    def ensure(self, api: docker.APIClient, key: str | None, avoid: Set[str] = frozenset()) -> dict[str, Any]:
        """The project's network as the engine describes it, created if need be.

        A new one has none of the addresses `avoid` in its subnet. Raises AddressPoolExhausted, InvalidSpec.
        """
        name = network_name(key)
        refused: set[str] = set()
        held = [ipaddress.IPv4Network(host) for host in avoid if _is_ipv4(host)]
        for _ in range(50):
            existing = self._find(api, name)
            if existing is not None:
                return existing
            subnet = self._free_subnet(api, name, refused, held)
            try:
                made = self._create(api, name, subnet)
                return {"Id": made["Id"], "Name": name, "IPAM": {"Config": [{"Subnet": subnet}]}}
            except docker.errors.APIError as error:
                if _is_overlap(error):
                    refused.add(
                        subnet
                    )  # another process or another tool was faster, or it is in use elsewhere
                elif not _is_duplicate(error):
                    raise from_api(error) from error
        raise RuntimeFailure(f"network {name} could not be created in 50 attempts")

    def keys(self, api: docker.APIClient) -> list[str]:
        """Whose networks there are."""
        mine = api.networks(filters={"label": f"{LABEL_OWNER}={self._owner}"})
        return [network["Name"].removeprefix(NAME_PREFIX) for network in mine]

    def remove(self, api: docker.APIClient, key: str) -> None:
        """Does nothing while a container is on it, started or not."""
        network = self._find(api, network_name(key))
        if network is None or api.containers(all=True, filters={"network": network["Id"]}):
            return
        try:
            api.remove_network(network["Id"])
        except docker.errors.APIError as error:
            in_use = "active endpoints" in explanation(error)  # a container arrived in between
            if not in_use and not is_missing_network(error):
                raise from_api(error) from error

    def free_address(self, api: docker.APIClient, network: dict[str, Any], name: str, avoid: Set[str]) -> str:
        """An address of the network for a container of that name, tried from one that follows from the name.

        Containers that were made and not started have theirs already, and the engine does not know it yet. Whoever
        else may have taken it in between, the engine says so at the start. Raises AddressPoolExhausted.
        """
        subnet = ipaddress.IPv4Network(network["IPAM"]["Config"][0]["Subnet"])
        taken = {*avoid, *self._given(api, network["Name"])}
        first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        count = subnet.num_addresses - 3  # all but the network's own, the bridge's and the broadcast address
        for step in range(count):
            address = str(subnet[2 + (first + step) % count])
            if address not in taken:
                return address
        raise AddressPoolExhausted(f"all {count} addresses of {subnet} are in use or held back")

    def _given(self, api: docker.APIClient, name: str) -> Iterator[str]:
        for container in api.containers(all=True, filters={"label": f"{LABEL_OWNER}={self._owner}"}):
            settings = ((container.get("NetworkSettings") or {}).get("Networks") or {}).get(name) or {}
            yield settings.get("IPAddress") or ""
            yield (settings.get("IPAMConfig") or {}).get("IPv4Address") or ""

    def _find(self, api: docker.APIClient, name: str) -> dict[str, Any] | None:
        for network in api.networks(names=[name]):  # the engine's filter matches parts of names
            if network["Name"] != name:
                continue
            if (network.get("Labels") or {}).get(LABEL_OWNER) != self._owner:
                raise InvalidSpec(f"network {name} exists and belongs to someone else: remove or rename it")
            return dict(network)
        return None

    def _create(self, api: docker.APIClient, name: str, subnet: str) -> dict[str, Any]:
        ipam = docker.types.IPAMConfig(pool_configs=[docker.types.IPAMPool(subnet=subnet)])
        return dict(
            api.create_network(
                name,
                driver="bridge",
                internal=self._internal,
                check_duplicate=True,
                labels={LABEL_OWNER: self._owner},
                ipam=ipam,
                options={
                    "com.docker.network.bridge.name": bridge_name(name),
                    "com.docker.network.bridge.enable_icc": "false",
                },
            )
        )

    def _free_subnet(
        self,
        api: docker.APIClient,
        name: str,
        refused: set[str],
        held: list[ipaddress.IPv4Network],
    ) -> str:
        used = [
            ipaddress.ip_network(pool["Subnet"], strict=False)
            for network in api.networks()
            for pool in (network.get("IPAM") or {}).get("Config") or []
            if pool.get("Subnet")
        ]
        for subnet in self._candidates(name):
            if str(subnet) not in refused and not any(
                subnet.overlaps(other) for other in (*used, *held) if other.version == 4
            ):
                return str(subnet)
        raise AddressPoolExhausted(f"all /{SUBNET_BITS} networks of {self._pool} are in use or held back")

    def _candidates(self, name: str) -> Iterator[ipaddress.IPv4Network]:
        """All subnets of the pool, from one that follows from the name: workers rarely try the same one."""
        size = 1 << (32 - SUBNET_BITS)
        count = max(1, self._pool.num_addresses // size)
        first = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big")
        for step in range(count):
            base = int(self._pool.network_address) + (first + step) % count * size
            yield ipaddress.IPv4Network((base, SUBNET_BITS))


def network_name(key: str | None) -> str:
    return NAME_PREFIX + (key or DEFAULT_KEY)


def bridge_name(name: str) -> str:
    return BRIDGE_PREFIX + hashlib.sha256(name.encode()).hexdigest()[: 15 - len(BRIDGE_PREFIX)]


def _is_ipv4(host: str) -> bool:
    try:
        ipaddress.IPv4Address(host)
    except ValueError:
        return False
    return True


def _is_overlap(error: docker.errors.APIError) -> bool:
    text = explanation(error).lower()
    return "pool overlaps" in text or "overlapping ipv4" in text


def _is_duplicate(error: docker.errors.APIError) -> bool:
    text = explanation(error).lower()
    return "already exists" in text or "same bridge name" in text


def protect_host() -> bool:
    """Drop what containers on our bridges send to the host itself, where we may; True if the rule stands.

    An internal network still reaches services of the host that listen on all addresses, through the bridge's own
    one. New connections only: the gateway's to the containers are answered.
    """
    iptables = shutil.which("iptables", path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")
    if sys.platform != "linux" or os.geteuid() != 0 or iptables is None:
        return False
    rule = ["INPUT", "-i", f"{BRIDGE_PREFIX}+", "-m", "conntrack", "--ctstate", "NEW", "-j", "DROP"]
    try:
        for action in ("-C", "-I"):
            if (
                subprocess.run(
                    [iptables, "-w", "5", action, *rule], capture_output=True, timeout=10
                ).returncode
                == 0
            ):
                return True
    except (OSError, subprocess.TimeoutExpired):
        return False
    return False
