"""What docker-py and the engine say, as `runtimes.errors`.

The engine tells most causes only in English text, so the texts are listed here, each with the version or the
component that writes it. An unknown text stays a plain `RuntimeFailure` with the text as evidence.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import docker.errors
import requests.exceptions
import urllib3.exceptions

from runtimes.errors import (
    AddressPoolExhausted,
    CommandNotFound,
    GpuUnavailable,
    ImageDenied,
    ImageMissing,
    InvalidSpec,
    NoSpace,
    PortTaken,
    RegistryUnreachable,
    RuntimeFailure,
    RuntimeNotPermitted,
    RuntimeUnreachable,
)

_TRANSPORT = (requests.exceptions.RequestException, urllib3.exceptions.HTTPError, OSError)

# docker-py's own checks of what it was given; the engine was not asked
_REFUSED_HERE = (
    docker.errors.InvalidRepository,
    docker.errors.InvalidArgument,
    docker.errors.InvalidVersion,
    docker.errors.NullResource,
)

# In order: the first text found decides. Everything is compared in lower case.
_ENGINE_TEXTS: tuple[tuple[type[RuntimeFailure], tuple[str, ...]], ...] = (
    (NoSpace, ("no space left on device", "disk quota exceeded")),
    (ImageMissing, ("no such image",)),
    # moby daemon/devices.go; libnvidia-container's hook; CDI
    (GpuUnavailable, ("could not select device driver", "nvidia-container-cli", "unknown device", "cdi device")),
    (PortTaken, ("port is already allocated", "address already in use", "ports are not available")),
    (AddressPoolExhausted, ("no available ipv4 addresses", "non-overlapping ipv4 address pool", "fully subnetted")),
    # runc; both mean the image and the command do not fit each other
    (CommandNotFound, ("executable file not found", "permission denied: unknown", "is a directory: unknown")),
    (CommandNotFound, ("no such file or directory: unknown", "exec format error", "no command specified")),
)  # fmt: skip

# moby distribution/errors.go, the distribution specification's error codes, and Go's net and crypto/tls.
_PULL_TEXTS: tuple[tuple[type[RuntimeFailure], tuple[str, ...]], ...] = (
    (NoSpace, ("no space left on device",)),
    (
        ImageMissing,
        ("manifest unknown", "manifest for", "name unknown", "repository name not known", "no such image"),
    ),
    (ImageMissing, ("no matching manifest", "does not match the specified platform")),
    (
        ImageDenied,
        ("unauthorized", "authentication required", "denied", "no basic auth", "incorrect username", "forbidden"),
    ),
    (
        RegistryUnreachable,
        (
            "dial tcp", "no such host", "timeout", "connection refused", "connection reset", "deadline exceeded",
            "tls:", "x509:", "http response to https", "eof", "proxyconnect", "unreachable", "name resolution",
            "unexpected http status", "toomanyrequests", "received unexpected http", "broken pipe",
        ),
    ),
    (ImageMissing, ("not found",)),
    (InvalidSpec, ("invalid reference format",)),
)  # fmt: skip


@contextmanager
def translated() -> Iterator[None]:
    """Every error of docker-py, requests and the socket leaves as a `RuntimeFailure`."""
    try:
        yield
    except docker.errors.APIError as error:
        raise from_api(error) from error
    except _REFUSED_HERE as error:
        raise InvalidSpec(str(error)) from error
    except docker.errors.DockerException as error:
        raise _from_connection(error) from error
    except _TRANSPORT as error:
        raise _from_connection(error) from error


def from_api(error: docker.errors.APIError) -> RuntimeFailure:
    """The engine answered with an error."""
    text = explanation(error)
    found = _match(text, _ENGINE_TEXTS)
    if found:
        return found
    if error.status_code in (502, 503, 504):  # a proxy before the engine, or one that is shutting down
        return RuntimeUnreachable(text)
    if (
        error.status_code is not None
        and 400 <= error.status_code < 500
        and error.status_code not in (404, 409)
    ):
        return InvalidSpec(text)
    return RuntimeFailure(text)


def from_pull(text: str) -> RuntimeFailure:
    """The engine's report of what went wrong between it and the registry."""
    return _match(text, _PULL_TEXTS) or RuntimeFailure(text)


def explanation(error: docker.errors.APIError) -> str:
    return str(error.explanation or error).strip()


def is_missing(error: docker.errors.APIError, what: str) -> bool:
    """Whether the engine itself says "No such {what}"; a bare 404 may come from a proxy that knows nothing."""
    return error.status_code == 404 and f"no such {what}" in explanation(error).lower()


def is_address_taken(error: docker.errors.APIError) -> bool:
    """moby libnetwork ipam, of a `start`: another container got the address that this one was to have."""
    return explanation(error).lower() == "address already in use"


def is_missing_network(error: docker.errors.APIError) -> bool:
    """moby libnetwork: "network X not found"; of a `start`, too."""
    text = explanation(error).lower()
    return "network" in text and ("not found" in text or "no such network" in text)


def _match(
    text: str, table: tuple[tuple[type[RuntimeFailure], tuple[str, ...]], ...]
) -> RuntimeFailure | None:
    lower = text.lower()
    for kind, parts in table:
        if any(part in lower for part in parts):
            return kind(text)
    return None


def _from_connection(error: BaseException) -> RuntimeUnreachable:
    """No answer. docker-py wraps what the socket said several times over; look for it."""
    cause = _innermost(error)
    if isinstance(cause, PermissionError):
        return RuntimeNotPermitted(f"{cause.strerror}: the engine's socket may not be opened by this user")
    if isinstance(cause, FileNotFoundError):
        return RuntimeUnreachable("the engine's socket does not exist: no Docker Engine runs here")
    if isinstance(cause, ConnectionRefusedError):
        return RuntimeUnreachable("nobody answers at the engine's address (connection refused)")
    if "timed out" in str(cause).lower():
        return RuntimeUnreachable(f"the engine takes connections but gives no answer in time ({cause})")
    return RuntimeUnreachable(str(cause) or type(cause).__name__)


def _innermost(error: BaseException) -> BaseException:
    """The first OSError in the chain of causes and arguments, else the error itself."""
    queue: list[BaseException] = [error]
    seen: set[int] = set()
    while queue:
        current = queue.pop(0)
        if id(current) in seen:
            continue
        seen.add(id(current))
        # requests' own exceptions are OSErrors without a number, or with a text in its place
        if isinstance(current, OSError) and isinstance(current.errno, int):
            return current
        related = [current.__cause__, current.__context__, getattr(current, "reason", None), *current.args]
        queue += [item for item in related if isinstance(item, BaseException)]
    return error
