"""Whether a socket's person is still signed in and still a member: asked on connect and every few seconds after."""

from __future__ import annotations

from importlib import import_module

from django.conf import settings
from django.contrib.auth import HASH_SESSION_KEY
from django.contrib.auth import SESSION_KEY as USER_KEY
from django.utils.crypto import constant_time_compare

from iam.actors import SESSION_KEY as PROJECT_KEY
from iam.actors import Actor, actor_for_user
from iam.models import User
from iam.sign_in import sessions


class SignedOut(Exception):
    """There is no such session any more, or its person may not sign in."""


def actor_of_session(session_key: str | None, project_id: str | None) -> Actor | None:
    """The person's actor in `project_id`, else in the session's project; None if they are no member.

    Read from the store, never from a cached session: signing out, a new password and a disabled account must end
    an open socket. Raises SignedOut.
    """
    store = import_module(settings.SESSION_ENGINE).SessionStore(session_key=session_key)
    data = store.load() if session_key else {}
    user = User.objects.filter(pk=data[USER_KEY]).first() if data.get(USER_KEY) else None
    if user is None or not user.is_active:
        raise SignedOut
    if not constant_time_compare(data.get(HASH_SESSION_KEY, ""), user.get_session_auth_hash()):
        raise SignedOut
    sessions.seen(str(session_key))
    if project_id:
        return actor_for_user(user, project_id)
    return actor_for_user(user, data.get(PROJECT_KEY)) or actor_for_user(user)
