"""Who may manage identities."""

from __future__ import annotations

from django.core.exceptions import PermissionDenied
from django.utils.translation import gettext as _

from iam.actors import Actor
from iam.models import ServiceAccount
from iam.roles import Permission


def authorise(actor: Actor, account: ServiceAccount | None = None) -> None:
    """Raises PermissionDenied for whoever may not manage service accounts, or not this one."""
    if not actor.may(Permission.ADMINISTER):
        raise PermissionDenied(_("Only a project admin manages service accounts."))
    if account is not None and account.project_id != actor.project.id:
        raise PermissionDenied(_("This service account belongs to another project."))
