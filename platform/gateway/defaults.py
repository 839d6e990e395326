"""What stands in for a file of a snapshot that is not there: a control plane or an agent of another version may know
fewer files, and a disk may have lost one.

What is there already goes on. Where nothing is, nobody passes whom the file might refuse; what only says how much
(bodies, token limits) is as on a new platform. Without clusters, routes and keys there is nothing to serve.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from gateway import assignments, filters, names
from gateway.targets import MAX_REQUEST_BYTES

Json = dict[str, Any]
Resources = Mapping[str, Json]


def _file(*resources: Json) -> Json:
    return {"version_info": "built-in", "resources": list(resources)}


def _extension(name: str, kind: str, config: Json) -> Json:
    typed = {"@type": f"{names.TYPE}extensions.filters.http.{kind}", **config}
    return {"@type": names.TYPE + "config.core.v3.TypedExtensionConfig", "name": name, "typed_config": typed}


def _nobody(name: str) -> Json:
    """Refuses every token. Who has none does not come this far where one is needed."""
    token = {"header": {"name": names.ACCESS_HEADER, "present_match": True}}
    policy = {"permissions": [{"any": True}], "principals": [token]}
    rules = {"action": "DENY", "policies": {names.POLICY_UNTOLD: policy}}
    return _extension(name, "rbac.v3.RBAC", {"rules": rules})


BUILT_IN: Resources = {
    names.ACCESS: _file(_nobody(names.ACCESS_FILTER)),
    names.BODY_LIMIT: _file(filters.body_limit(MAX_REQUEST_BYTES)),
    names.AT_ONCE: _file(assignments.at_once({})),
    names.ASSIGNMENTS: _file(),
    names.LIMITS: _file(),
}
ESSENTIAL = tuple(name for name in names.FILES if name not in BUILT_IN)


def complete(given: Resources, present: Resources) -> dict[str, Json]:
    """The files that this agent knows: as given, else as present, else built in. An essential one may be missing.

    Routing is one whole: what belongs to other clusters is none of those that are given.
    """
    other = {name: BUILT_IN[name] for name in names.ROUTING if name in BUILT_IN and names.CLUSTERS in given}
    found = {**BUILT_IN, **present, **other, **given}
    return {name: found[name] for name in names.FILES if name in found}


def oddities(given: Iterable[str], present: Iterable[str]) -> list[str]:
    """What a person should know of the files of a snapshot (`given`) beside those on the disk, and should do."""
    unknown = sorted(set(given) - set(names.FILES))
    missing = [name for name in names.FILES if name not in set(given)]
    kept = [name for name in missing if name in set(present)]
    texts = []
    if unknown:
        texts.append(
            f"the snapshot has files that this gateway does not know and leaves out: {_listed(unknown)}. The control "
            "plane is newer than this gateway: update the gateway"
        )
    if missing:
        texts.append(
            f"the snapshot lacks {_listed(missing)}; of those lie on the disk and go on: {_listed(kept)}. The control "
            "plane is older than this gateway: update the control plane"
        )
    return texts


def _listed(found: Iterable[str]) -> str:
    """Safe to log, whatever the names are."""
    return ", ".join(repr(name[:60]) for name in list(found)[:10]) or "none"
