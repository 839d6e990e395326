"""The ways out of a failure that a page can offer as a button, and taking one.

Each is found anew from the endpoint as it is now: a button of an old page, or a made-up key, does nothing. What none
of these can do (a driver on the host, an image that is wrong) the reason's own sentence says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from django.core.exceptions import ValidationError
from django.db import transaction
from django.utils.translation import gettext as _

from endpoints import services
from endpoints.bigger import next_bigger
from endpoints.models import Endpoint, Revision
from endpoints.specs import max_context
from iam.actors import Actor
from registry import services as registry
from registry.frameworks import DefinitionError, definition_of
from registry.models import ModelStatus, Source
from registry.spec import CONTAINER_PORT

SHORTEST_CONTEXT = 256


@dataclass(frozen=True, slots=True)
class Fix:
    """One way out.

    key       stable, with what it would set: "use_port:8080"
    label     the button's words
    changes   what it makes of the revision that failed (EndpointSpec's fields), {} for a fix of the model
    """

    key: str
    label: str
    changes: Mapping[str, Any] = field(default_factory=dict)


def offered(endpoint: Endpoint) -> tuple[Fix, ...]:
    """What may be done about the endpoint's reason now, the best first. Who may do it is the caller's question."""
    if endpoint.deleting_at or endpoint.paused_at or endpoint.reason_code not in _FIXES:
        return ()
    revision = blamed(endpoint)
    if revision is None:
        return ()
    try:
        return tuple(
            fix for find in _FIXES[endpoint.reason_code] for fix in find(revision, endpoint.reason_params)
        )
    except DefinitionError:
        return ()  # somebody edited the framework into something that can't be used; its own page says so


def apply(*, actor: Actor, endpoint: Endpoint, key: str, allow_interruption: bool = False) -> Endpoint:
    """Take the way out of that key. Raises ValidationError if it is not offered (any more), and what the services
    raise."""
    fix = next((item for item in offered(endpoint) if item.key == key), None)
    if fix is None:
        raise ValidationError(
            {"fix": [_("This is not offered any more: look at what the endpoint says now.")]}
        )
    revision = blamed(endpoint)
    assert revision is not None
    if not fix.changes:
        return _mend_model(actor, endpoint, revision, allow_interruption)
    return services.update_endpoint(
        actor=actor,
        endpoint=endpoint,
        changes={**_configuration(revision, endpoint), **fix.changes},
        allow_interruption=allow_interruption,
    )


def _mend_model(actor: Actor, endpoint: Endpoint, revision: Revision, allow_interruption: bool) -> Endpoint:
    """Import its model again, and ask for the revision that failed once more: it waits for the import by itself."""
    with transaction.atomic():
        if revision.pk == endpoint.revision_id:
            endpoint = services.retry_endpoint(actor=actor, endpoint=endpoint)
        else:  # it was taken back
            endpoint = services.rollback_endpoint(
                actor=actor,
                endpoint=endpoint,
                number=revision.number,
                allow_interruption=allow_interruption,
            )
        registry.reimport_model(actor, revision.model)
    return endpoint


def blamed(endpoint: Endpoint) -> Revision | None:
    """The revision that the endpoint's reason is about: one that was taken back, else the present one."""
    told = endpoint.failed_update
    if told and told.get("code") == endpoint.reason_code:
        rows = endpoint.revisions.select_related("model__framework", "instance_type", "endpoint")
        return rows.filter(number=told.get("revision")).first()
    return endpoint.revision


def _configuration(revision: Revision, endpoint: Endpoint) -> dict[str, Any]:
    """All that the revision is made of, as a change of what the endpoint is made of now."""
    present = dict(endpoint.revision.environment) if endpoint.revision else {}
    return {
        "model_id": str(revision.model_id),
        "instance_type": revision.instance_type_id,
        "settings": dict(revision.settings),
        "environment": {**dict.fromkeys(present), **revision.environment},
    }


def _with_setting(revision: Revision, key: str, value: Any) -> dict[str, Any]:
    return {"settings": {**revision.settings, key: value}}


def _use_port(revision: Revision, params: Mapping[str, Any]) -> Iterator[Fix]:
    if definition_of(revision.model.framework).setting(CONTAINER_PORT) is None:
        return
    for port in params.get("ports", ()):
        if isinstance(port, int) and 0 < port < 65536:
            yield Fix(
                f"use_port:{port}",
                _("Use port %(port)s") % {"port": port},
                _with_setting(revision, CONTAINER_PORT, port),
            )


def _bigger_type(revision: Revision, params: Mapping[str, Any]) -> Iterator[Fix]:
    size = next_bigger(revision)
    if size is not None:
        yield Fix(
            f"use_type:{size.name}",
            _("Use %(instance_type)s") % {"instance_type": size.name},
            {"instance_type": size.name},
        )


def _bigger_gpu(revision: Revision, params: Mapping[str, Any]) -> Iterator[Fix]:
    size = next_bigger(revision, of_gpu=True)
    if size is not None:
        yield Fix(
            f"use_type:{size.name}",
            _("Use %(instance_type)s") % {"instance_type": size.name},
            {"instance_type": size.name},
        )


def _shorter_context(revision: Revision, params: Mapping[str, Any]) -> Iterator[Fix]:
    """What the server itself said would fit, else half of what was asked."""
    setting = definition_of(revision.model.framework).setting("max_context")
    asked = params.get("asked") or max_context(revision)
    if setting is None or not isinstance(asked, int):
        return
    fits = params.get("fits")
    tokens = fits if isinstance(fits, int) and 0 < fits < asked else asked // 2
    if tokens >= max(SHORTEST_CONTEXT, setting.min or 0):
        yield Fix(
            f"use_context:{tokens}",
            _("Use a context of %(tokens)s tokens") % {"tokens": tokens},
            _with_setting(revision, "max_context", tokens),
        )


def _half_numbers(revision: Revision, params: Mapping[str, Any]) -> Iterator[Fix]:
    setting = definition_of(revision.model.framework).setting("dtype")
    if setting is not None and "half" in setting.choices:
        yield Fix("use_half", _("Use the data type “half”"), _with_setting(revision, "dtype", "half"))


def _import_again(revision: Revision, params: Mapping[str, Any]) -> Iterator[Fix]:
    model = revision.model
    has_files = model.source != Source.IMAGE or bool(model.source_ref.get("path"))
    if has_files and model.status == ModelStatus.READY:
        yield Fix("reimport", _("Import the model again"))


_Finder = Callable[[Revision, Mapping[str, Any]], Iterator[Fix]]
_FIXES: dict[str, tuple[_Finder, ...]] = {
    "wrong_port": (_use_port,),
    "out_of_memory": (_bigger_type, _shorter_context),
    "context_too_long": (_shorter_context, _bigger_type),
    "context_beyond_model": (_shorter_context,),
    "gpu_out_of_memory": (_bigger_gpu, _shorter_context),
    "dtype_unsupported": (_half_numbers,),
    "model_file_missing": (_import_again,),
    "model_file_corrupt": (_import_again,),
}
