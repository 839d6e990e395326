"""Forms of service accounts and API keys: cleaning only; what is allowed is decided by the services."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

from django import forms
from django.utils import timezone
from django.utils.translation import gettext_lazy as _

from iam.directory import EndpointFacts
from iam.models import ServiceAccount
from iam.roles import Role
from iam.services import MAX_ENDPOINTS
from iam.services.cleaning import HIGHEST, LIMITS

ROLE_HINTS = {
    Role.VIEWER: _("Sees endpoints, models, metrics, events and logs."),
    Role.USER: _("Also calls private endpoints: the right one for a program that uses models."),
    Role.EDITOR: _("Also creates, changes and deletes endpoints and models."),
    Role.ADMIN: _("Also manages service accounts, members and limits."),
}
ALL, NAMED = "all", "named"


class DateInput(forms.DateInput):
    """The browser's own calendar. Its value is the same in every language."""

    input_type = "date"

    def __init__(self, **attrs: Any) -> None:
        super().__init__(attrs={"autocomplete": "off", **attrs}, format="%Y-%m-%d")


def _limit(name: str, label: Any) -> forms.IntegerField:
    return forms.IntegerField(label=label, required=False, min_value=1, max_value=HIGHEST[name])


class CallerForm(forms.Form):
    """What service accounts and API keys have in common: endpoints and limits.

    endpoints: what can be chosen from; present: the ids that are chosen now, None for all.
    """

    scope = forms.ChoiceField(
        label=_("Endpoints"),
        choices=[(ALL, _("All of the project")), (NAMED, _("Only these"))],
        widget=forms.RadioSelect(attrs={"class": "form-check-input"}),
        initial=ALL,
    )
    endpoints = forms.MultipleChoiceField(
        label=_("Endpoints"), required=False, widget=forms.CheckboxSelectMultiple
    )
    requests_per_minute = _limit("requests_per_minute", _("Requests a minute"))
    tokens_per_minute = _limit("tokens_per_minute", _("Tokens a minute"))
    tokens_per_month = _limit("tokens_per_month", _("Tokens a month"))

    def __init__(
        self,
        *args: Any,
        endpoints: Iterable[EndpointFacts] = (),
        present: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(*args, **kwargs)
        names = {item.id: item.name for item in endpoints}
        # What is gone may stay chosen, or be taken out; it can't be chosen anew.
        gone = {item: _("(deleted) %(id)s") % {"id": item} for item in present or () if item not in names}
        self.fields["endpoints"].choices = [*names.items(), *gone.items()]  # type: ignore[attr-defined]
        self.max_endpoints = MAX_ENDPOINTS

    def clean(self) -> dict[str, Any]:
        """What is missing or over is told together with all the rest, not after it."""
        values: dict[str, Any] = super().clean() or self.cleaned_data
        if values.get("scope") == NAMED and not values.get("endpoints") and "endpoints" not in self.errors:
            self.add_error("endpoints", _("Choose at least one endpoint, or all of the project."))
        return values

    def endpoint_choices(self) -> list[dict[str, Any]]:
        """Each endpoint and whether it is ticked, for the template; ticked ones first."""
        ticked = set(self["endpoints"].value() or [])
        choices: Any = self.fields["endpoints"].choices  # type: ignore[attr-defined]
        found = [{"value": key, "label": name, "checked": key in ticked} for key, name in choices]
        return sorted(found, key=lambda choice: not choice["checked"])

    def limit_fields(self) -> list[forms.BoundField]:
        """For the template."""
        return [self[name] for name in LIMITS]

    def shared(self) -> dict[str, Any]:
        """What the services take, of a valid form."""
        values = self.cleaned_data
        named = values["scope"] == NAMED
        limits = {name: values[name] for name in LIMITS}
        return {"endpoint_ids": values["endpoints"] if named else None, **limits}


class ServiceAccountForm(CallerForm):
    """Everything of a service account that can be set."""

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
    expires_at = forms.DateField(label=_("Expires on"), required=False, widget=DateInput())

    def clean_expires_at(self) -> date | None:
        """A day to come, or the one that it has."""
        day: date | None = self.cleaned_data["expires_at"]
        if day and day != self.initial.get("expires_at") and day <= timezone.now().astimezone(UTC).date():
            raise forms.ValidationError(_("Choose a moment in the future."))
        return day

    @classmethod
    def of(
        cls, account: ServiceAccount, endpoints: Iterable[EndpointFacts], data: Any = None
    ) -> ServiceAccountForm:
        """The form that changes an account."""
        initial = {name: getattr(account, name) for name in ("name", "description", "roles", *LIMITS)}
        initial["scope"] = ALL if account.endpoint_ids is None else NAMED
        initial["endpoints"] = account.endpoint_ids or []
        initial["expires_at"] = account.expires_at.astimezone(UTC).date() if account.expires_at else None
        return cls(data, initial=initial, endpoints=endpoints, present=account.endpoint_ids)

    def changes(self, account: ServiceAccount | None = None) -> dict[str, Any]:
        """What the services take, of a valid form. A date that stays leaves the time of day alone."""
        values = self.cleaned_data
        wanted = midnight(values["expires_at"])
        stored = account.expires_at if account is not None else None
        if stored is not None and wanted is not None and stored.astimezone(UTC).date() == wanted.date():
            wanted = stored
        plain = {name: values[name] for name in ("name", "description", "roles")}
        return {**plain, **self.shared(), "expires_at": wanted}

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


class SecretForm(forms.Form):
    """A second secret."""

    expires_at = forms.DateField(
        label=_("Expires on"), required=False, widget=DateInput(**{"class": "form-control date-field"})
    )

    def moment(self) -> datetime | None:
        """Of a valid form."""
        return midnight(self.cleaned_data["expires_at"])


class ApiKeyForm(CallerForm):
    """A new API key."""

    name = forms.CharField(
        label=_("Name"),
        max_length=80,
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
        error_messages={"required": _("Give it a name.")},
    )
    days = forms.TypedChoiceField(
        label=_("Expires in"),
        coerce=int,
        initial=90,
        choices=[
            (7, _("7 days")),
            (30, _("30 days")),
            (90, _("90 days")),
            (180, _("180 days")),
            (365, _("1 year")),
        ],
    )

    def values(self) -> dict[str, Any]:
        """What the services take, of a valid form."""
        expires_at = timezone.now() + timedelta(days=self.cleaned_data["days"])
        return {"name": self.cleaned_data["name"], "expires_at": expires_at, **self.shared()}


class AskForm(forms.Form):
    """Which endpoint the question is about."""

    endpoint = forms.ChoiceField(label=_("Endpoint"))

    def __init__(self, *args: Any, endpoints: Iterable[EndpointFacts] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["endpoint"].choices = [(item.id, item.name) for item in endpoints]  # type: ignore[attr-defined]


def midnight(day: date | None) -> datetime | None:
    """The first moment of a date, UTC."""
    return datetime.combine(day, time.min, tzinfo=UTC) if day else None
