"""Django's admin for IAM. A new service account's secret is shown in the answer that makes it, and never again."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar

from allauth.account.decorators import secure_admin_login
from allauth.account.models import EmailAddress
from allauth.idp.oidc.models import Client, Token
from allauth.mfa.models import Authenticator
from allauth.socialaccount.models import SocialAccount, SocialApp, SocialToken
from allauth.usersessions.models import UserSession
from django import forms
from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as BaseUserAdmin
from django.contrib.auth.models import Group
from django.core.exceptions import ValidationError
from django.http import HttpRequest, HttpResponse
from django.template.response import TemplateResponse
from django.utils.cache import patch_cache_control
from django.utils.translation import gettext_lazy as _

from iam import selectors, services
from iam.actors import Actor
from iam.models import Membership, Project, ServiceAccount, ServiceAccountSecret, User
from iam.roles import Role

if TYPE_CHECKING:  # the generics of django-stubs are no generics at run time
    ModelAdmin = admin.ModelAdmin[Any]
    TabularInline = admin.TabularInline[Any, Any]
    AccountModelForm = forms.ModelForm[ServiceAccount]
    UserAdminBase = BaseUserAdmin[User]
else:
    ModelAdmin, TabularInline, AccountModelForm, UserAdminBase = (
        admin.ModelAdmin,
        admin.TabularInline,
        forms.ModelForm,
        BaseUserAdmin,
    )

# What we don't use: permissions are roles in projects, and allauth's OAuth2 tables stay empty (iam/oauth/validator).
for unused in (Group, Client, Token, EmailAddress, SocialApp, SocialToken, SocialAccount):
    if admin.site.is_registered(unused):
        admin.site.unregister(unused)
# What belongs to a person alone, and is changed on their own Security page: sessions hold the key of a cookie.
for personal in (Authenticator, UserSession):
    if admin.site.is_registered(personal):
        admin.site.unregister(personal)

# Its own form would know nothing of second factors, nor of limits on guessing.
admin.site.login = secure_admin_login(admin.site.login)  # type: ignore[method-assign]


class MembershipInline(TabularInline):
    """The roles of a person, or the people of a project."""

    model = Membership
    extra = 0
    autocomplete_fields = ("user", "project")


@admin.register(User)
class UserAdmin(UserAdminBase):
    """People. They sign in with their email address."""

    ordering = ("email",)
    list_display = ("email", "first_name", "last_name", "is_active", "is_staff", "last_login")
    list_filter = ("is_active", "is_staff")
    search_fields = ("email", "first_name", "last_name")
    filter_horizontal = ()
    fieldsets = (
        (None, {"fields": ("email", "password")}),
        (_("Person"), {"fields": ("first_name", "last_name")}),
        (_("Access"), {"fields": ("is_active", "is_staff", "is_superuser")}),
        (_("Dates"), {"fields": ("last_login", "date_joined")}),
    )
    readonly_fields = ("last_login", "date_joined")
    add_fieldsets = ((None, {"classes": ("wide",), "fields": ("email", "password1", "password2")}),)
    inlines = (MembershipInline,)


@admin.register(Project)
class ProjectAdmin(ModelAdmin):
    """Projects and their people."""

    list_display = ("name", "id", "created_at")
    search_fields = ("name", "id")
    readonly_fields = ("id", "created_at")
    inlines = (MembershipInline,)


@admin.register(Membership)
class MembershipAdmin(ModelAdmin):
    """Who has which role where."""

    list_display = ("user", "project", "role", "created_at")
    list_filter = ("role", "project")
    search_fields = ("user__email", "project__name")
    autocomplete_fields = ("user", "project")


class SecretInline(TabularInline):
    """The secrets of an account: their endings and times; they can be deleted, not read."""

    model = ServiceAccountSecret
    extra = 0
    fields: ClassVar[tuple[str, ...]] = ("hint", "created_at", "last_used_at", "expires_at")
    readonly_fields = ("hint", "created_at", "last_used_at")

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
        fields = ("project", "name", "description", "roles")


@admin.register(ServiceAccount)
class ServiceAccountAdmin(ModelAdmin):
    """Service accounts of every project."""

    form = ServiceAccountAdminForm
    list_display = ("name", "project", "masked_id", "role_names", "active", "last_used_at", "created_by_name")
    list_filter = ("project",)
    search_fields = ("name", "id")
    fields = ("project", "name", "description", "roles", "id", "disabled_at", "last_used_at", "created_at")
    readonly_fields = ("id", "last_used_at", "created_at")
    autocomplete_fields = ("project",)
    actions = ("disable", "enable")

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

    def save_model(self, request: HttpRequest, obj: ServiceAccount, form: Any, change: bool) -> None:
        """A new account is made by the same service as everywhere; its secret waits on the request alone."""
        if change:
            super().save_model(request, obj, form, change)
            return
        values = form.cleaned_data
        account, secret = services.create_service_account(
            self._actor(request, values["project"]), values["name"], values["roles"], values["description"]
        )
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

    @admin.action(description=_("Disable the selected service accounts"))
    def disable(self, request: HttpRequest, queryset: Any) -> None:
        """No new tokens for them."""
        for account in queryset.select_related("project"):
            services.disable_service_account(self._actor(request, account.project), account)

    @admin.action(description=_("Enable the selected service accounts"))
    def enable(self, request: HttpRequest, queryset: Any) -> None:
        """Undo a disable."""
        for account in queryset.select_related("project"):
            try:
                services.enable_service_account(self._actor(request, account.project), account)
            except ValidationError as error:
                self.message_user(request, " ".join(error.messages), "error")

    def _actor(self, request: HttpRequest, project: Project) -> Actor:
        """Whoever may use the admin for this acts with every right in the project."""
        assert isinstance(request.user, User)
        return Actor(project, (Role.ADMIN,), user=request.user)
