"""The people of a project, and the open invitations. All of it needs the role admin.

An invitation's link is in exactly one answer, that of the POST which made it: never in a session, a message or a
redirect.
"""

from __future__ import annotations

from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import get_object_or_404, redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import patch_cache_control
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_variables
from django.views.decorators.http import require_POST, require_safe

from config.errors import Conflict
from iam import invitations, membership, selectors
from iam.access import require
from iam.actors import current_actor
from iam.invitations import NewInvitation
from iam.models import Invitation, Membership
from iam.people_forms import InviteForm
from iam.roles import Permission, Role

admins = require(Permission.ADMINISTER)


@require_safe
@admins
def index(request: HttpRequest) -> HttpResponse:
    """Who belongs to the project, with which role, and who is invited."""
    return _page(request, InviteForm(), 200)


@require_POST
@admins
@sensitive_variables("made")
def invite(request: HttpRequest) -> HttpResponse:
    """Who has an account becomes a member at once; for anybody else a link is made, and shown once."""
    actor = current_actor(request)
    form = InviteForm(request.POST)
    if not form.is_valid():
        return _page(request, form, 422)
    email, role, days = (form.cleaned_data[name] for name in ("email", "role", "days"))
    try:
        person = membership.person_named(email) if email else None
        if person is None:
            made = invitations.create(actor, role, timezone.now(), email=email, days=days)
            return _show_once(request, made)
        membership.add_member(actor, person, role)
    except ValidationError as error:
        form.add_error(None, error)
        return _page(request, form, 422)
    except Conflict as conflict:
        form.add_error(None, conflict.message)
        return _page(request, form, 409)
    messages.success(request, _("%(email)s is a member now.") % {"email": person.email})
    return redirect("iam:members")


@require_POST
@admins
def change_role(request: HttpRequest, member_id: int) -> HttpResponse:
    """Another role for a member."""
    member = _member(request, member_id)
    try:
        changed = membership.change_role(current_actor(request), member, request.POST.get("role", ""))
    except (Conflict, ValidationError) as refused:
        return _refused(request, refused)
    words = _("%(email)s has the role %(role)s now.")
    messages.success(request, words % {"email": member.user.email, "role": changed.get_role_display()})
    # Who has just given up the role may not see the list any more.
    return redirect("iam:project" if member.user_id == request.user.pk else "iam:members")


@require_POST
@admins
def remove(request: HttpRequest, member_id: int) -> HttpResponse:
    """One member less."""
    member = _member(request, member_id)
    try:
        membership.remove_member(current_actor(request), member)
    except Conflict as conflict:
        return _refused(request, conflict)
    messages.success(
        request,
        _("%(email)s is no member of %(project)s any more.")
        % {"email": member.user.email, "project": current_actor(request).project.name},
    )
    return redirect("endpoints:home" if member.user_id == request.user.pk else "iam:members")


@require_POST
@admins
def withdraw(request: HttpRequest, invitation_id: int) -> HttpResponse:
    """A link less."""
    mine = Invitation.objects.filter(project=current_actor(request).project)
    invitations.withdraw(current_actor(request), get_object_or_404(mine, id=invitation_id))
    messages.success(request, _("The invitation is withdrawn. Its link works no more."))
    return redirect("iam:members")


def _member(request: HttpRequest, member_id: int) -> Membership:
    return get_object_or_404(selectors.members(current_actor(request)), id=member_id)


def _page(request: HttpRequest, form: InviteForm, status: int) -> HttpResponse:
    actor = current_actor(request)
    context = {
        "members": selectors.members(actor),
        "invitations": invitations.open_ones(actor, timezone.now()),
        "form": form,
        "roles": Role.choices,
    }
    return render(request, "iam/members.html", context, status=status)


@sensitive_variables()
def _show_once(request: HttpRequest, made: NewInvitation) -> HttpResponse:
    context = {"made": made, "leave_to": reverse("iam:members")}
    response = render(request, "iam/invitation_link.html", context)
    patch_cache_control(response, no_store=True, private=True)
    return response


def _refused(request: HttpRequest, error: Conflict | ValidationError) -> HttpResponse:
    for text in error.messages if isinstance(error, ValidationError) else [error.message]:
        messages.error(request, text)
    return redirect("iam:members")
