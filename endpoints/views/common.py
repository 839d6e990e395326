"""What several pages of one endpoint share."""

from __future__ import annotations

from django.http import Http404
from django.utils.translation import gettext as _

from endpoints.models import Endpoint
from endpoints.selectors import endpoint_of
from iam.actors import Actor


def get_endpoint(actor: Actor, endpoint_id: str) -> Endpoint:
    """The project's endpoint. One of another project is as absent as one that never was."""
    endpoint = endpoint_of(actor.project, endpoint_id)
    if endpoint is None:
        raise Http404(_("There is no such endpoint in this project."))
    return endpoint
