"""What Envoy's parts are called: in its files, in its configuration and in what it reports about them."""

from __future__ import annotations

XDS_DIR = "xds"  # in the gateway's home, which is Envoy's working directory
AT_ONCE = "at-once.json"
ASSIGNMENTS = "assignments.json"
CLUSTERS = "clusters.json"
ROUTES = "routes.json"
TOKENS = "tokens.json"
BODY_LIMIT = "body-limit.json"
ACCESS = "access.json"
LIMITS = "limits.json"
DENIALS = "denials.json"  # the agent's own, in no snapshot
# What Envoy takes or refuses as one, in the order of writing: what refuses callers waits for nothing else. A filter
# depends on no other file; routes lead to clusters, some of which have replicas and limit from files before them.
ROUTING = (AT_ONCE, ASSIGNMENTS, CLUSTERS, ROUTES)
FILTERS: tuple[tuple[str, ...], ...] = ((ACCESS,), (TOKENS,), (BODY_LIMIT,))
GROUPS: tuple[tuple[str, ...], ...] = (*FILTERS, ROUTING, (LIMITS,))
FILES = tuple(name for group in GROUPS for name in group)  # of a snapshot
# Limits are for the agent, assignments are spread by it over files of their own (gateway.assignments).
ENVOY_FILES = tuple(name for name in FILES if name not in (LIMITS, ASSIGNMENTS))

ROUTE_CONFIG = "endpoints"  # the RDS resource's name
AT_ONCE_LAYER = "at-once"  # of Envoy's runtime
TOKEN_FILTER = "berth.tokens"  # noqa: S105 - a filter's name
BODY_LIMIT_FILTER = "berth.body_limit"
ACCESS_FILTER = "berth.access"
DENIALS_FILTER = "berth.denials"
RBAC_FILTER = "envoy.filters.http.rbac"

# Clusters and routes that belong to no endpoint; an endpoint's are called by its id, which starts with "me-".
CONTROL_PLANE = "control-plane"
ACTIVATOR = "activator"
UNKNOWN_ENDPOINT = "unknown-endpoint"
NO_UPGRADE = "no-upgrade"

# What a gateway tells the activator with a request. Nobody else can: callers' x-berth-* headers are dropped.
ENDPOINT_HEADER = "x-berth-endpoint"
SECRET_HEADER = "x-berth-activator"  # noqa: S105 - a header's name

# What the token filter tells the filters behind it of a token. Names with a colon no client can send, since a request
# with one is malformed, and no replica gets: in HTTP/1 Envoy writes none of them.
SUBJECT_HEADER = ":berth-subject"
GRANT_HEADER = ":berth-grant"
ACCESS_HEADER = ":berth-access"

JWT_NAMESPACE = (
    "envoy.filters.http.jwt_authn"  # of the dynamic metadata in which Envoy says why a token failed
)
ROUTE_NAMESPACE = "berth"  # of what routes say about themselves
# Of an endpoint with limits; PRICE: of a request (gateway.limits).
ENDPOINT = "endpoint"
PRICE = "price"
REQUESTS = "requests_per_minute"
CONCURRENCY = "max_concurrency"
# Of a denial's name: whose tokens are used up (or ENDPOINT), and in which window.
CALLER = "caller"
MINUTE = "minute"
MONTH = "month"
JWT_FAILURE = "failure"
# Envoy asks policies in the order of their names.
POLICY_PROJECT = "1-project"
POLICY_SCOPE = "2-scope"
POLICY_ROLE = "3-role"
POLICY_UNTOLD = "untold"  # of a gateway that was not told whom to refuse (gateway.defaults)
REVOKED = "revoked"  # what the access filter calls a token that was revoked

TYPE = "type.googleapis.com/envoy."
