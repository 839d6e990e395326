"""What somebody sees who was invited. Open to everybody: the link's secret, which the page posts, is the key.

It is posted once; from then on the session knows the invitation's number, so that it survives a sign-in and stands in
no address, no history and no log.
"""

from __future__ import annotations

from allauth.account.utils import perform_login
from django.contrib import messages
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.cache import patch_cache_control
from django.utils.translation import gettext as _
from django.views.decorators.debug import sensitive_post_parameters, sensitive_variables
from django.views.decorators.http import require_http_methods, require_POST

from config.errors import Conflict
from iam import invitations
from iam.actors import enter
from iam.models import Invitation, Project, User
from iam.people_forms import LinkForm, SignUpForm

SESSION_KEY = "invitation"


@require_http_methods(["GET", "HEAD", "POST"])
@sensitive_post_parameters("secret")
@sensitive_variables("form")
def opened(request: HttpRequest) -> HttpResponse:
    """GET: the invitation that this browser has opened, or a field for its link. POST: open one."""
    if request.method != "POST":
        found = _opened(request)
        return _page(request, found) if found else _link_page(request, LinkForm())
    form = LinkForm(request.POST)
    if not form.is_valid():
        return _link_page(request, form, 422)
    try:
        found = invitations.find(form.cleaned_data["secret"], timezone.now())
    except invitations.NotUsable as refusal:
        return _lost(request, refusal)
    request.session[SESSION_KEY] = found.pk
    return redirect("iam:invitation")


@require_POST
def accept(request: HttpRequest) -> HttpResponse:
    """The person who is signed in becomes a member."""
    if not isinstance(request.user, User):
        return redirect("iam:invitation")
    found = _opened(request)
    try:
        if found is None:
            raise invitations.NotUsable
        member = invitations.accept(found.pk, request.user, timezone.now())
    except invitations.NotUsable as refusal:
        return _lost(request, refusal)
    except (invitations.ForAnother, Conflict) as refused:
        messages.error(request, str(refused))
        return redirect("iam:invitation")
    del request.session[SESSION_KEY]
    return _welcome(request, redirect("endpoints:home"), member.project)


@require_POST
@sensitive_post_parameters("password")
@sensitive_variables("form", "password")
def sign_up(request: HttpRequest) -> HttpResponse:
    """An account and the membership, for somebody who has no account yet."""
    found = _opened(request)
    if found is None:
        return _lost(request, invitations.NotUsable())
    if request.user.is_authenticated:
        return redirect("iam:invitation")
    form = SignUpForm(request.POST)
    if not form.is_valid():
        return _page(request, found, form, 422)
    email, password = form.cleaned_data["email"], form.cleaned_data["password"]
    try:
        member = invitations.sign_up(found.pk, email, password, timezone.now())
    except invitations.NotUsable as refusal:
        return _lost(request, refusal)
    except ValidationError as error:
        form.add_error(None, error)
        return _page(request, found, form, 422)
    del request.session[SESSION_KEY]
    answer = perform_login(
        request, member.user, email_verification="none", redirect_url=reverse("endpoints:home")
    )
    return _welcome(request, answer, member.project)


def _opened(request: HttpRequest) -> Invitation | None:
    number = request.session.get(SESSION_KEY)
    if number is None:
        return None
    return invitations.usable(timezone.now()).filter(pk=number).first()


def _welcome(request: HttpRequest, answer: HttpResponse, project: Project) -> HttpResponse:
    enter(request, answer, project)
    messages.success(request, _("Welcome to %(project)s.") % {"project": project.name})
    return answer


def _page(
    request: HttpRequest, found: Invitation, form: SignUpForm | None = None, status: int = 200
) -> HttpResponse:
    return _unkept(
        render(
            request,
            "iam/invitation.html",
            {"invitation": found, "form": form or SignUpForm(initial={"email": found.email})},
            status=status,
        )
    )


def _link_page(request: HttpRequest, form: LinkForm, status: int = 200) -> HttpResponse:
    return _unkept(render(request, "iam/invitation_open.html", {"form": form}, status=status))


def _lost(request: HttpRequest, refusal: invitations.NotUsable) -> HttpResponse:
    request.session.pop(SESSION_KEY, None)
    context = {"form": LinkForm(), "refusal": str(refusal)}
    return _unkept(render(request, "iam/invitation_open.html", context, status=404))


def _unkept(response: HttpResponse) -> HttpResponse:
    patch_cache_control(response, no_store=True, private=True)
    return response
