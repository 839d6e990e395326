"""What the top bar switches: project, region, language."""

from __future__ import annotations

from django.contrib import messages
from django.contrib.auth.decorators import login_required
from django.http import HttpRequest, HttpResponse, HttpResponseRedirect
from django.urls import reverse
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST

from endpoints.models import Region
from iam.actors import actor_for_user, enter
from iam.models import User


def _back(request: HttpRequest) -> HttpResponseRedirect:
    """To the page that asked, if it is one of ours."""
    wanted = request.POST.get("next", "")
    if url_has_allowed_host_and_scheme(wanted, allowed_hosts=None):
        return HttpResponseRedirect(wanted)
    return HttpResponseRedirect(reverse("endpoints:home"))


@login_required
@require_POST
def switch_project(request: HttpRequest) -> HttpResponse:
    """Another project for this session, always to its overview: what was on screen belongs to the old one."""
    assert isinstance(request.user, User)
    actor = actor_for_user(request.user, request.POST.get("project") or "-")
    if actor is None:
        messages.error(request, _("You are not a member of that project."))
        return HttpResponseRedirect(reverse("endpoints:home"))
    answer = HttpResponseRedirect(reverse("endpoints:home"))
    enter(request, answer, actor.project)
    return answer


@login_required
@require_POST
def switch_region(request: HttpRequest) -> HttpResponse:
    """Narrow lists to one region and preselect it for new endpoints; empty means all."""
    code = request.POST.get("region", "")
    if code and Region.objects.filter(code=code, enabled=True).exists():
        request.session["region"] = code
    else:
        request.session.pop("region", None)
    return _back(request)
