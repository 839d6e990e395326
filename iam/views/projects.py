"""The project that one is in: its id, its name, one's other projects, its end. New ones are made by the staff."""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_POST

from config.errors import Conflict
from iam import projects
from iam.access import require, require_staff
from iam.actors import SESSION_KEY, current_actor, enter
from iam.models import Membership, User
from iam.people_forms import NameForm
from iam.roles import Permission

READ = ("GET", "HEAD")


@require_http_methods([*READ])
@require(Permission.VIEW)
def detail(request: HttpRequest) -> HttpResponse:
    """What every member may know of it; for its admins the forms."""
    return _page(request, NameForm(initial={"name": current_actor(request).project.name}))


@require_POST
@require(Permission.ADMINISTER)
def rename(request: HttpRequest) -> HttpResponse:
    """Another name."""
    actor = current_actor(request)
    form = NameForm(request.POST)
    if form.is_valid():
        try:
            project = projects.rename_project(actor, actor.project, form.cleaned_data["name"])
        except ValidationError as error:
            form.add_error(None, error)
        else:
            messages.success(request, _("The project is called %(name)s now.") % {"name": project.name})
            return redirect("iam:project")
    return _page(request, form, 422)


@require_POST
@require(Permission.ADMINISTER)
def delete(request: HttpRequest) -> HttpResponse:
    """Gone for good, if it is empty and its name was typed."""
    actor = current_actor(request)
    name = actor.project.name
    if request.POST.get("confirm", "").strip() != name:
        messages.error(request, _("Type the project's name to delete it. Nothing was deleted."))
        return redirect("iam:project")
    try:
        projects.delete_project(actor, actor.project)
    except Conflict as conflict:
        messages.error(request, conflict.message)
        return redirect("iam:project")
    request.session.pop(SESSION_KEY, None)
    messages.success(request, _("%(name)s is deleted.") % {"name": name})
    return redirect("endpoints:home")


@require_http_methods([*READ, "POST"])
@require_staff
def create(request: HttpRequest) -> HttpResponse:
    """A new project; its maker is its admin, and in it from then on."""
    assert isinstance(request.user, User)
    form = NameForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        try:
            project = projects.create_project(request.user, form.cleaned_data["name"])
        except ValidationError as error:
            form.add_error(None, error)
        else:
            messages.success(request, _("%(name)s is made. You are its admin.") % {"name": project.name})
            answer = redirect("iam:project")
            enter(request, answer, project)
            return answer
    status = 422 if request.method == "POST" else 200
    return render(request, "iam/project_create.html", {"form": form}, status=status)


def _page(request: HttpRequest, form: NameForm, status: int = 200) -> HttpResponse:
    assert isinstance(request.user, User)
    project = current_actor(request).project
    mine = Membership.objects.filter(user=request.user).select_related("project").order_by("project__name")
    context = {"project": project, "form": form, "mine": mine, "in_use": projects.why_not_empty(project)}
    return render(request, "iam/project.html", context, status=status)
