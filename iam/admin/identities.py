"""Service accounts, API keys and what gateways refuse. A new secret is shown in the answer that makes it alone."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from django import forms
from django.contrib import admin
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils import timezone
from django.utils.cache import patch_cache_control
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _

from iam import selectors, services
from iam.actors import Actor
from iam.admin.asking import asked
from iam.admin.audited import Audited, ModelAdmin, ReadOnly, TabularInline
from iam.models import ApiKey, Project, Revocation, ServiceAccount, ServiceAccountSecret, User
from iam.roles import Role
from iam.services.cleaning import LIMITS, clean_expiry, clean_limits
from iam.signals import access_changed

if TYPE_CHECKING:
    AccountModelForm = forms.ModelForm[ServiceAccount]
    KeyModelForm = forms.ModelForm[ApiKey]
else:
    AccountModelForm = KeyModelForm = forms.ModelForm


def staff_actor(request: HttpRequest, project: Project) -> Actor:
    """Whoever may use the admin acts with every right in the project."""
    assert isinstance(request.user, User)
    return Actor(project, (Role.ADMIN,), user=request.user)


def _clean_limits(form: forms.BaseForm) -> None:
    """As services clean them, told at their fields."""
    try:
        clean_limits({name: form.cleaned_data.get(name) for name in LIMITS if name not in form.errors})
    except ValidationError as error:
        form.add_error(None, error)


def _clean_name(form: forms.BaseForm, row: ServiceAccount | ApiKey, **among: Any) -> None:
    """The database's rule, which a form without all of its columns does not look at."""
    name = form.cleaned_data.get("name")
    if name and type(row)._default_manager.filter(name=name, **among).exclude(pk=row.pk).exists():
        form.add_error("name", _("This name is taken there."))


class SecretInline(TabularInline):
    """The secrets of an account: their endings and times; they can be deleted, not read."""

    model = ServiceAccountSecret
    extra = 0
    fields: ClassVar[tuple[str, ...]] = (
        *("hint", "created_at", "last_used_at", "last_used_from", "expires_at"),
    )
    readonly_fields = ("hint", "created_at", "last_used_at", "last_used_from")
    consequence = _(
        "A secret that goes gets no more tokens: programs that use it stop working within half an hour."
    )

    def has_add_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """A secret typed in by hand would not be random."""
        return False


class ServiceAccountAdminForm(AccountModelForm):
    """Roles as boxes to tick."""

    roles = forms.MultipleChoiceField(
        label=_("Roles"), choices=Role.choices, widget=forms.CheckboxSelectMultiple, initial=[Role.USER]
    )

    class Meta:
        model = ServiceAccount
        fields = ("project", "name", "description", "roles", "expires_at", *LIMITS)

    def clean(self) -> dict[str, Any]:
        """What the services would refuse is told here, at its field."""
        values = super().clean() or self.cleaned_data
        _clean_limits(self)
        if project := values.get("project") or (self.instance.project if self.instance.project_id else None):
            _clean_name(self, self.instance, project=project)
        moment = values.get("expires_at")
        if moment != self.initial.get("expires_at"):
            try:
                clean_expiry(moment, timezone.now())
            except ValidationError as error:
                self.add_error(None, error)
        return values


@admin.register(ServiceAccount)
class ServiceAccountAdmin(Audited):
    """Service accounts of every project. Changes go through the services, which take back the tokens that they must."""

    services_record = True
    form = ServiceAccountAdminForm
    list_display = ("name", "project", "masked_id", "role_names", "active", "last_used_at", "created_by_name")
    list_filter = ("project",)
    list_select_related = ("project",)
    search_fields = ("name", "=id")
    fieldsets = (
        (None, {"fields": ("project", "name", "description", "roles", "narrowed_to", "expires_at")}),
        (_("Limits"), {"fields": LIMITS, "description": _("Empty: no limit.")}),
        (_("Facts"), {"fields": ("id", "disabled_at", "last_used_at", "created_by_name", "created_at")}),
    )
    readonly_fields = ("id", "narrowed_to", "disabled_at", "last_used_at", "created_by_name", "created_at")
    autocomplete_fields = ("project",)
    actions = ("disable", "enable")
    consequence = _(
        "Its secrets get no more tokens, and the gateways refuse the tokens it has within two seconds. It can't be "
        "brought back. Disabling it does the same and can be undone."
    )

    def dangers(self, request: HttpRequest, row: Any) -> list[str | Promise]:
        """A role that goes stops programs."""
        found = super().dangers(request, row)
        if set(row.roles) - set(request.POST.getlist("roles")):
            found.append(
                _(
                    "A role goes: the gateways refuse the tokens it has within two seconds, and new ones "
                    "have the roles that are left."
                )
            )
        return found

    def get_readonly_fields(self, request: HttpRequest, obj: Any = None) -> Any:
        """Its tokens name its project."""
        return (*self.readonly_fields, "project") if obj else self.readonly_fields

    def get_inlines(self, request: HttpRequest, obj: Any = None) -> Any:
        """A new account has no secrets to list yet."""
        return (SecretInline,) if obj else ()

    @admin.display(description=_("client id"))
    def masked_id(self, account: ServiceAccount) -> str:
        """Shortened."""
        return selectors.masked(account.id)

    @admin.display(description=_("roles"))
    def role_names(self, account: ServiceAccount) -> str:
        """In words."""
        return ", ".join(str(Role(role).label) for role in account.roles if role in Role.values)

    @admin.display(description=_("active"), boolean=True)
    def active(self, account: ServiceAccount) -> bool:
        """Whether it may get tokens."""
        return account.is_active

    @admin.display(description=_("endpoints"))
    def narrowed_to(self, account: ServiceAccount) -> str:
        """Which ones it may call. Chosen in the project's own console."""
        return (
            str(_("all of its project")) if account.endpoint_ids is None else ", ".join(account.endpoint_ids)
        )

    def save_model(self, request: HttpRequest, obj: ServiceAccount, form: Any, change: bool) -> None:
        """By the same services as everywhere; the secret of a new one waits on the request alone."""
        values = {name: form.cleaned_data[name] for name in form.changed_data if name != "project"}
        if change:
            services.update_service_account(staff_actor(request, obj.project), obj, **values)
            return
        actor = staff_actor(request, form.cleaned_data["project"])
        values |= {name: form.cleaned_data[name] for name in ("name", "roles")}
        account, secret = services.create_service_account(actor, **values)
        obj.__dict__.update(account.__dict__)
        request.new_credentials = selectors.Credentials(account.id, secret)  # type: ignore[attr-defined]

    def response_add(
        self, request: HttpRequest, obj: ServiceAccount, post_url_continue: Any = None
    ) -> HttpResponse:
        """The credentials instead of a redirect: whatever survives a redirect would be stored somewhere."""
        context = {
            **self.admin_site.each_context(request),
            "title": _("Credentials of %(name)s") % {"name": obj.name},
            "opts": self.opts,
            "credentials": request.new_credentials,  # type: ignore[attr-defined]
        }
        response = TemplateResponse(request, "iam/admin_credentials.html", context)
        patch_cache_control(response, no_store=True, private=True)
        return response

    @admin.action(description=_("Disable the selected service accounts"), permissions=["change"])
    def disable(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """No new tokens for them, and those they have are refused."""
        page = asked(
            self,
            request,
            queryset.filter(disabled_at=None),
            question=_("Disable these service accounts?"),
            consequence=_(
                "They get no more tokens, and the gateways refuse those they have within two seconds: programs that "
                "use them stop working. Enabling them again undoes it."
            ),
            yes=_("Disable"),
        )
        if page is None:
            for account in queryset.select_related("project"):
                services.disable_service_account(staff_actor(request, account.project), account)
        return page

    @admin.action(description=_("Enable the selected service accounts"), permissions=["change"])
    def enable(self, request: HttpRequest, queryset: Any) -> None:
        """Undo a disable."""
        for account in queryset.select_related("project"):
            try:
                services.enable_service_account(staff_actor(request, account.project), account)
            except ValidationError as error:
                self.message_user(request, " ".join(error.messages), "error")


class ApiKeyAdminForm(KeyModelForm):
    """What of a key can be changed: its text says all the rest."""

    class Meta:
        model = ApiKey
        fields = ("name", *LIMITS)

    def clean(self) -> dict[str, Any]:
        """Limits are one or more; of its names a person has each once in a project."""
        values = super().clean() or self.cleaned_data
        _clean_limits(self)
        _clean_name(self, self.instance, project=self.instance.project, user=self.instance.user)
        return values


@admin.register(ApiKey)
class ApiKeyAdmin(Audited):
    """API keys of every project. They are made by the people that they belong to, who see them once."""

    form = ApiKeyAdminForm
    list_display = ("name", "user", "project", "ending", "expires_at", "last_used_at", "usable")
    list_filter = ("project", "blocked")
    list_select_related = ("user", "project")
    search_fields = ("name", "=id", "user__email")
    fieldsets = (
        (None, {"fields": ("name", "user", "project")}),
        (_("Limits"), {"fields": LIMITS, "description": _("Empty: no limit.")}),
        (_("Facts"), {"fields": ("id", "ending", "expires_at", "last_used_at", "created_at", "usable")}),
    )
    readonly_fields = (
        *("id", "user", "project", "ending", "expires_at", "last_used_at", "created_at", "usable"),
    )
    consequence = _("The gateways refuse it within two seconds, for good: programs that use it stop working.")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """It would be somebody else's."""
        return False

    @admin.display(description=_("last four characters"))
    def ending(self, key: ApiKey) -> str:
        """To tell keys apart."""
        return f"…{key.hint}"

    @admin.display(description=_("usable"), boolean=True)
    def usable(self, key: ApiKey) -> bool:
        """Not while its person may not call endpoints."""
        return not key.blocked and key.expires_at > timezone.now()

    def save_model(self, request: HttpRequest, obj: ApiKey, form: Any, change: bool) -> None:
        """Gateways hear of other limits."""
        obj.save(update_fields=form.changed_data)
        if not set(LIMITS).isdisjoint(form.changed_data):
            access_changed.send(sender=ApiKey)


@admin.register(Revocation)
class RevocationAdmin(ReadOnly, ModelAdmin):
    """What gateways refuse although it has not expired. It goes when it would have."""

    list_display = ("grant", "created_at", "expires_at")
    search_fields = ("grant",)
    fields = ("grant", "created_at", "expires_at")
