"""What the control plane tells the gateway, as plain data. No framework, no ORM: selectors fill it."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from urllib.parse import urlsplit


class Serving(StrEnum):
    """What a route does with a request that may pass."""

    READY = "ready"  # goes to one of `replicas`
    HOLD = "hold"  # goes to the activator, which keeps it until a replica is awake
    UNAVAILABLE = "unavailable"  # 503 with `status` and `reason`


MAX_REQUEST_BYTES = 100 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class ReplicaTarget:
    """One ready replica. `replica_id` is unique over all time."""

    replica_id: str
    host: str
    port: int


def address_text(host: str, port: int) -> str:
    """How an address is written between gateways and control plane."""
    return f"{host}:{port}"


@dataclass(frozen=True, slots=True)
class Limits:
    """How much may be asked for; None: as much as wanted. Tokens are prompt and completion together, windows UTC's."""

    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    tokens_per_month: int | None = None

    def __bool__(self) -> bool:
        return self != Limits()


@dataclass(frozen=True, slots=True)
class Caller:
    """A service account or API key that has limits. subject: its tokens' `sub`."""

    subject: str
    limits: Limits


@dataclass(frozen=True, slots=True)
class EndpointTarget:
    """One endpoint's route.

    endpoint_id    "me-<uuid4>", the path segment after /v1/
    project        the `project` claim a token must carry
    private        False: no token is needed
    status         the endpoint's status word, shown in a 503
    reason_code    stable code of the status reason, "" if none
    reason         one sentence for the caller
    retry_after_s  sent as Retry-After with a 503 where waiting helps, else None
    limits         of all its callers together
    max_concurrency  requests that may run at once on all its replicas together
    """

    endpoint_id: str
    project: str
    private: bool
    serving: Serving
    status: str
    reason_code: str = ""
    reason: str = ""
    retry_after_s: int | None = None
    replicas: tuple[ReplicaTarget, ...] = ()
    limits: Limits = Limits()
    max_concurrency: int | None = None

    @property
    def is_served(self) -> bool:
        """Whether requests go to a replica. Ready without one is as good as unavailable."""
        return self.serving is Serving.READY and bool(self.replicas)


@dataclass(frozen=True, slots=True)
class TokenPolicy:
    """How tokens are checked: RS256 JWTs of one issuer and audience.

    jwks           the public JWK set of access tokens and API keys as a JSON document
    invoke_roles   the roles, any one of which may invoke a private endpoint
    """

    issuer: str
    audience: str
    jwks: str
    invoke_roles: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class GatewayTargets:
    """The gateway's whole duty at one moment.

    control_plane   host and port of web, for /accounts-api/ and discovery on the gateway's own address
    control_plane_tls   web speaks TLS there. Its certificate names the public host, not this address, and is not
                    checked: the way leads over loopback
    console_origin  the console's public URL: the only origin that gets CORS answers, and the Host that web is given
    activator       where requests to sleeping endpoints are held, "host:port" or "unix:/path"; "": nowhere, they are
                    refused
    activator_secret   by which the activator knows a gateway
    revoked         grants (the claim `grant`) of tokens that are refused although they have not expired
    callers         service accounts and API keys that have limits
    """

    endpoints: tuple[EndpointTarget, ...]
    tokens: TokenPolicy
    control_plane: tuple[str, int]
    console_origin: str
    control_plane_tls: bool = False
    max_request_bytes: int = MAX_REQUEST_BYTES
    activator: str = ""
    activator_secret: str = field(default="", repr=False)
    revoked: tuple[str, ...] = ()
    callers: tuple[Caller, ...] = ()


def origin_of(url: str) -> str:
    """As browsers write it in Origin (RFC 6454 §6.2): scheme, host and, unless it is the scheme's own, port."""
    parts = urlsplit(url)
    host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname or ""
    port = f":{parts.port}" if parts.port and parts.port != _PORTS.get(parts.scheme) else ""
    return f"{parts.scheme}://{host}{port}"


_PORTS = {"http": 80, "https": 443}
