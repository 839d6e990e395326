"""What follows from a row's change or end, whoever made it: the console, the API, Django's admin, a command.

Who loses a role, a membership or the account can't call with their API keys from then on; a service account or key that
is deleted is refused although its token has not expired. Signals, so that no path is forgotten; the rows of a cascade
send them, too. (`QuerySet.update` sends none: nobody may use it on people and their memberships.)

Sessions and sockets need nothing: they read the membership for each request, and every few seconds.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

from django.contrib.auth.signals import user_logged_in
from django.db.models.signals import post_delete, post_save, pre_delete
from django.http import HttpRequest

from iam import grants
from iam.actors import PROJECT_COOKIE, SESSION_KEY, actor_for_user
from iam.models import ApiKey, Membership, ServiceAccount, User


def membership_changed(instance: Membership, **_kwargs: Any) -> None:
    """A role was given, changed or taken."""
    grants.follow_people([instance.user_id])


def user_saved(
    instance: User, created: bool, update_fields: Collection[str] | None = None, **_kwargs: Any
) -> None:
    """A person was deactivated or activated again. Signing in saves the person, too: that changes nothing here."""
    if not created and (update_fields is None or "is_active" in update_fields):
        grants.follow_people([instance.pk])


def account_goes(instance: ServiceAccount, **_kwargs: Any) -> None:
    """Its tokens live on without it."""
    grants.revoke_tokens(instance)


def key_goes(instance: ApiKey, **_kwargs: Any) -> None:
    """Its token would live for months."""
    grants.revoke_key(instance)


def project_remembered(request: HttpRequest | None, user: User, **_kwargs: Any) -> None:
    """Whoever signs in again in the same browser is in the project they left it in."""
    asked = request.COOKIES.get(PROJECT_COOKIE, "") if request is not None else ""
    if request is not None and asked and SESSION_KEY not in request.session and actor_for_user(user, asked):
        request.session[SESSION_KEY] = asked


def connect() -> None:
    """Listen. Called once, when the app is ready."""
    post_save.connect(membership_changed, sender=Membership, dispatch_uid="follow-member")
    post_delete.connect(membership_changed, sender=Membership, dispatch_uid="follow-member")
    post_save.connect(user_saved, sender=User, dispatch_uid="follow-person")
    pre_delete.connect(account_goes, sender=ServiceAccount, dispatch_uid="revoke-account")
    pre_delete.connect(key_goes, sender=ApiKey, dispatch_uid="revoke-key")
    user_logged_in.connect(project_remembered, dispatch_uid="remember-project")
