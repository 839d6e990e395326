"""Forms about people: cleaning only; what is allowed is decided by the services."""

from __future__ import annotations

from django import forms
from django.utils.translation import gettext_lazy as _

from iam.forms import ROLE_HINTS
from iam.invitations import DEFAULT_DAYS
from iam.roles import Role


class NameForm(forms.Form):
    """A project's name."""

    name = forms.CharField(
        label=_("Name"),
        max_length=80,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
        error_messages={"required": _("Give it a name.")},
    )


class InviteForm(forms.Form):
    """Whom to add, as what; for how long a link is good."""

    email = forms.EmailField(
        label=_("Email address"), required=False, widget=forms.EmailInput(attrs={"autocomplete": "off"})
    )
    role = forms.ChoiceField(
        label=_("Role"),
        choices=[(role.value, role.label) for role in Role],
        initial=Role.USER,
        error_messages={"required": _("Choose a role.")},
    )
    days = forms.TypedChoiceField(
        label=_("The link is good for"),
        choices=[(1, _("1 day")), (7, _("7 days")), (30, _("30 days"))],
        coerce=int,
        initial=DEFAULT_DAYS,
        required=False,
    )

    def clean_days(self) -> int:
        """The usual number where none was sent."""
        return int(self.cleaned_data["days"] or DEFAULT_DAYS)

    def role_hints(self) -> list[tuple[str, str]]:
        """What each role may, for the list beside the field."""
        return [(str(role.label), str(ROLE_HINTS[role])) for role in Role]


class LinkForm(forms.Form):
    """An invitation's link, or its secret alone: the page's script posts that."""

    secret = forms.CharField(
        label=_("Invitation link"),
        max_length=1000,
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
        error_messages={"required": _("Paste the link you were given.")},
    )

    def clean_secret(self) -> str:
        """What stands behind the #, if there is one."""
        return str(self.cleaned_data["secret"]).rpartition("#")[2].strip()


class SignUpForm(forms.Form):
    """An account for somebody who was invited."""

    email = forms.EmailField(
        label=_("Email address"),
        required=False,
        widget=forms.EmailInput(attrs={"autocomplete": "username"}),
    )
    password = forms.CharField(
        label=_("Password"),
        strip=False,
        max_length=1000,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        error_messages={"required": _("Choose a password.")},
    )
