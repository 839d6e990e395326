"""What can go wrong between us and a place where replicas run.

One rooted tree. `code` is stable and is what a status reason, a test or an API client compares;
`evidence` is the engine's own text, for people. The user's sentence for a code lives in `endpoints.errors`.
"""

from __future__ import annotations


class RuntimeFailure(Exception):
    """Base of every error that a driver raises. `transient` says whether trying again unchanged can help."""

    code = "runtime_error"
    transient = True

    def __init__(self, evidence: str = "") -> None:
        super().__init__(evidence or self.code)
        self.evidence = evidence


class RuntimeUnreachable(RuntimeFailure):
    """The engine gave no answer: nothing is known about any container. Never read as 'container gone'."""

    code = "engine_unreachable"


class RuntimeNotPermitted(RuntimeUnreachable):
    """The engine's socket exists, but this user may not open it."""

    code = "engine_not_permitted"


class ImageMissing(RuntimeFailure):
    """The registry answered that there is no such image or tag."""

    code = "image_not_found"
    transient = False


class ImageDenied(RuntimeFailure):
    """The registry asks for (other) credentials."""

    code = "image_denied"
    transient = False


class RegistryForbidden(RuntimeFailure):
    """The platform's own rules keep images of this registry out; nobody was asked."""

    code = "registry_not_allowed"
    transient = False


class RegistryUnreachable(RuntimeFailure):
    """The registry could not be reached: name resolution, connection or TLS."""

    code = "registry_unreachable"


class NoSpace(RuntimeFailure):
    """The engine's disk is full."""

    code = "no_space"


class InvalidSpec(RuntimeFailure):
    """The engine refused the container's configuration; the same configuration will be refused again."""

    code = "invalid_container"
    transient = False


class CommandNotFound(InvalidSpec):
    """The image has no such program as the command names, or may not execute it."""

    code = "command_not_found"


class GpuUnavailable(RuntimeFailure):
    """The engine cannot hand out the GPUs that were asked for."""

    code = "gpu_unavailable"


class AddressPoolExhausted(RuntimeFailure):
    """No subnet is left for a project's network."""

    code = "no_subnet"


class PortTaken(RuntimeFailure):
    """A host port that the replica needs is in use."""

    code = "port_conflict"


class UnknownRuntime(RuntimeFailure):
    """The configuration names a runtime that does not exist."""

    code = "unknown_runtime"
    transient = False
