"""IAM's forms: cleaning only; what is allowed is decided by the services."""

from __future__ import annotations

from typing import Any

from django import forms
from django.utils.translation import gettext_lazy as _

from iam.roles import Role

ROLE_HINTS = {
    Role.VIEWER: _("Sees endpoints, models, metrics, events and logs."),
    Role.USER: _("Also calls private endpoints: the right one for a program that uses models."),
    Role.EDITOR: _("Also creates, changes and deletes endpoints and models."),
    Role.ADMIN: _("Also manages service accounts, members and limits."),
}


class ServiceAccountForm(forms.Form):
    """Name, description and roles of a service account."""

    name = forms.CharField(
        label=_("Name"),
        max_length=80,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
        error_messages={"required": _("Give it a name.")},
    )
    description = forms.CharField(label=_("Description"), max_length=200, required=False)
    roles = forms.MultipleChoiceField(
        label=_("Roles"),
        choices=Role.choices,
        widget=forms.CheckboxSelectMultiple,
        initial=[Role.USER],
        error_messages={"required": _("Choose at least one role.")},
    )

    def role_choices(self) -> list[dict[str, Any]]:
        """Each role with its sentence and whether it is ticked, for the template."""
        ticked = set(self["roles"].value() or [])
        return [
            {
                "value": role.value,
                "label": role.label,
                "hint": ROLE_HINTS[role],
                "checked": role.value in ticked,
            }
            for role in Role
        ]
