"""The gate in front of console views."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Concatenate, ParamSpec

from django.contrib.auth.views import redirect_to_login
from django.core.exceptions import PermissionDenied
from django.http import Http404, HttpRequest
from django.http.response import HttpResponseBase
from django.shortcuts import render
from django.utils.translation import gettext as _

from iam.actors import refusal
from iam.roles import Permission

P = ParamSpec("P")
View = Callable[Concatenate[HttpRequest, P], HttpResponseBase]


def require_staff(view: View[P]) -> View[P]:
    """For what belongs to the platform and to no project: anonymous people go to sign-in, others get a 403 page."""

    @wraps(view)
    def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
        if not request.user.is_authenticated:
            return redirect_to_login(request.get_full_path())
        if not request.user.is_staff:
            raise PermissionDenied(_("This is for the platform's admins."))
        return view(request, *args, **kwargs)

    return guarded


def require(permission: Permission) -> Callable[[View[P]], View[P]]:
    """Anonymous people go to sign-in, people of no project to a page that says what to do about it; people without
    `permission` in the present project get a 403 page. A project that one does not belong to is not there: 404."""

    def decorate(view: View[P]) -> View[P]:
        @wraps(view)
        def guarded(request: HttpRequest, /, *args: P.args, **kwargs: P.kwargs) -> HttpResponseBase:
            actor = getattr(request, "actor", None)
            if not request.user.is_authenticated:
                return redirect_to_login(request.get_full_path())
            if actor is None and request.GET.get("project"):
                raise Http404
            if actor is None:
                return render(request, "iam/no_project.html", status=403)
            if not actor.may(permission):
                raise PermissionDenied(refusal(actor, permission))
            return view(request, *args, **kwargs)

        return guarded

    return decorate
