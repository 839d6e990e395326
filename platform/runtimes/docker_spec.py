"""ContainerSpec → the engine's own request bodies. Pure: no engine is asked.

Field names and meanings: https://docs.docker.com/reference/api/engine/version/v1.41/ (ContainerCreate).
"""

from __future__ import annotations

from typing import Any

from runtimes.contract import HOST_PLACEHOLDER, LABEL_OWNER, PORT_PLACEHOLDER, ContainerSpec

LABEL_PORT = "berth.port"  # an image may expose more ports than the one that we ask
LOG_FILES = 2  # so that a rotation never leaves a dead container without its last words
INSIDE_HOST = "0.0.0.0"  # noqa: S104 - all addresses of the container, which are on one isolated network


def container_config(
    spec: ContainerSpec, *, owner: str, network_id: str, published: bool, address: str = ""
) -> dict[str, Any]:
    """The body of POST /containers/create.

    address     its IPv4 address on that network; "" leaves the choice to the engine
    published   whether the port is also bound on the host's loopback address, where containers' own addresses
                cannot be reached
    """
    port = f"{spec.port}/tcp"
    config: dict[str, Any] = {
        "Image": spec.image,
        "Labels": {**spec.labels, LABEL_OWNER: owner, LABEL_PORT: str(spec.port)},
        "Env": [f"{key}={fill(value, spec.port)}" for key, value in spec.env.items()],
        "ExposedPorts": {port: {}},
        # An image's own health check would only cost CPU: readiness is probed from outside.
        "Healthcheck": {"Test": ["NONE"]},
        "StopTimeout": spec.stop_grace_s,
        "HostConfig": _host_config(spec, network_id, port if published else None),
        "NetworkingConfig": {
            "EndpointsConfig": {network_id: {"IPAMConfig": {"IPv4Address": address}} if address else {}}
        },
    }
    if spec.command is not None:
        config["Cmd"] = [fill(item, spec.port) for item in spec.command]
    if spec.entrypoint is not None:
        config["Entrypoint"] = [fill(item, spec.port) for item in spec.entrypoint]
    if spec.user is not None:
        config["User"] = spec.user
    return config


def fill(text: str, port: int) -> str:
    return text.replace(PORT_PLACEHOLDER, str(port)).replace(HOST_PLACEHOLDER, INSIDE_HOST)


def _host_config(spec: ContainerSpec, network_id: str, published_port: str | None) -> dict[str, Any]:
    config: dict[str, Any] = {
        "NetworkMode": network_id,
        "CapDrop": ["ALL"],
        "SecurityOpt": ["no-new-privileges:true"],
        "Privileged": False,
        "ReadonlyRootfs": spec.read_only_root,
        "PidsLimit": spec.pids_limit,
        "RestartPolicy": {"Name": "no"},
        "LogConfig": {
            "Type": "json-file",
            "Config": {"max-size": str(max(spec.log_bytes, 1_000_000)), "max-file": str(LOG_FILES)},
        },
        # `exec`: compilers of kernels (Triton's, torch's) load what they wrote to a temporary folder.
        "Tmpfs": {path: f"rw,exec,nosuid,nodev,size={size}" for path, size in spec.tmpfs.items()},
        # Type `bind` is refused when the source is missing; the older Binds would create it as a root-owned folder.
        "Mounts": [
            {
                "Type": "bind",
                "Source": mount.source,
                "Target": mount.target,
                "ReadOnly": mount.read_only,
                "BindOptions": {"Propagation": "rprivate"},
            }
            for mount in spec.mounts
        ],
        # The engine's resolver would carry a container's questions out of an internal network, past its isolation
        # (CVE-2024-29018; its advisory names this very setting as the remedy): nobody listens there.
        "Dns": ["127.0.0.1"],
    }
    if spec.cpus:
        config["NanoCpus"] = int(spec.cpus * 1_000_000_000)
    if spec.memory_bytes:
        config["Memory"] = config["MemorySwap"] = spec.memory_bytes  # equal: no swap beyond it
    if spec.shm_bytes:
        config["ShmSize"] = spec.shm_bytes
    if spec.gpu_ids:
        config["DeviceRequests"] = [
            {"Driver": "", "DeviceIDs": list(spec.gpu_ids), "Capabilities": [["gpu"]], "Options": {}}
        ]
    if published_port:
        config["PortBindings"] = {published_port: [{"HostIp": "127.0.0.1", "HostPort": ""}]}
    return config
