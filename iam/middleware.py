"""Where a request comes from, which project it is about, and as whom."""

from __future__ import annotations

from collections.abc import Callable

from django.http import HttpRequest, HttpResponse

from iam import addresses
from iam.actors import SESSION_KEY, Actor, actor_for_user
from iam.origin import HEADER, Origin, acting_from, request_id_of


class OriginMiddleware:
    """Says where the request comes from (iam.origin), for audit log and logs, and names it in the answer.

    Synchronous like all others: Django runs them in one thread, in which the variable is seen by what they call.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Set, go on, name."""
        request_id = request_id_of(request.headers.get(HEADER), trusted=addresses.from_proxy(request))
        with acting_from(Origin(addresses.client_address(request), request_id)):
            response = self.get_response(request)
        response[HEADER] = request_id
        return response


class ProjectMiddleware:
    """Sets `request.actor`: the signed-in person in the project of their session, or None.

    `?project=` wins over the session for this one request (contract §4); a project that the person is no
    member of gives no actor rather than another project.
    """

    def __init__(self, get_response: Callable[[HttpRequest], HttpResponse]) -> None:
        self.get_response = get_response

    def __call__(self, request: HttpRequest) -> HttpResponse:
        """Resolve, then go on."""
        request.actor = self._resolve(request)  # type: ignore[attr-defined]
        return self.get_response(request)

    def _resolve(self, request: HttpRequest) -> Actor | None:
        if not request.user.is_authenticated:
            return None
        asked = request.GET.get("project")
        if asked:
            return actor_for_user(request.user, asked)
        remembered = request.session.get(SESSION_KEY)
        # A membership may have ended since the session began: fall back to the first one left.
        return actor_for_user(request.user, remembered) or actor_for_user(request.user)
