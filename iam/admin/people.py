"""People, projects, memberships and invitations. What a change brings about follows from the rows (iam.followers)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from django.contrib import admin
from django.contrib.auth.admin import UserAdmin as BaseUserAdmin
from django.core.exceptions import ValidationError
from django.forms import BaseInlineFormSet
from django.http import HttpRequest, HttpResponse
from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import ngettext

from iam import belongings
from iam.admin.asking import asked
from iam.admin.audited import Audited, TabularInline
from iam.models import Invitation, Membership, Project, User

if TYPE_CHECKING:
    UserAdminBase = BaseUserAdmin[User]
    Formset = BaseInlineFormSet[Membership, Any, Any]
else:
    UserAdminBase, Formset = BaseUserAdmin, BaseInlineFormSet


_DEACTIVATED = _(
    "They are signed out everywhere and can't sign in. The gateways refuse their API keys within two "
    "seconds. Activating them again undoes all of it."
)


class MembershipRows(Formset):
    """Rows of which the last admin of a project can't be removed."""

    def clean(self) -> None:
        """A row that becomes an admin in the same form counts only from the next one on."""
        super().clean()
        for form in self.deleted_forms:
            if form.instance.pk and form.instance.is_last_admin:
                raise ValidationError(form.instance.last_admin_words())


class MembershipInline(TabularInline):
    """The roles of a person, or the people of a project."""

    model = Membership
    formset = MembershipRows
    extra = 0
    autocomplete_fields = ("user", "project")


@admin.register(User)
class UserAdmin(Audited, UserAdminBase):
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
    actions = ("deactivate", "activate")
    consequence = _(
        "The person's sessions end, their memberships and API keys go, and the gateways refuse those keys within two "
        "seconds. What they made stays. Deactivating a person does the same and can be undone."
    )

    switched_off: ClassVar[Mapping[str, str | Promise]] = {"is_active": _DEACTIVATED}

    def dangers(self, request: HttpRequest, row: User) -> list[str | Promise]:
        """A person who may do everything, too."""
        found = super().dangers(request, row)
        if not row.is_superuser and "is_superuser" in request.POST:
            found.append(_("They may do everything from then on, in every project and here."))
        return found

    def what_goes_with(self, row: User) -> dict[str, Any]:
        """Their keys and memberships."""
        return belongings.of_person(row)

    @admin.action(description=_("Deactivate the selected people"), permissions=["change"])
    def deactivate(self, request: HttpRequest, queryset: Any) -> HttpResponse | None:
        """They can't sign in, and their API keys are refused."""
        page = asked(
            self,
            request,
            queryset.filter(is_active=True),
            question=_("Deactivate these people?"),
            consequence=_DEACTIVATED,
            yes=_("Deactivate"),
        )
        if page is None:
            self._switch(request, queryset, active=False)
        return page

    @admin.action(description=_("Activate the selected people"), permissions=["change"])
    def activate(self, request: HttpRequest, queryset: Any) -> None:
        """Undo a deactivation."""
        self._switch(request, queryset, active=True)

    def _switch(self, request: HttpRequest, queryset: Any, *, active: bool) -> None:
        changed = list(queryset.exclude(is_active=active))
        for user in changed:
            user.is_active = active
            user.save(update_fields=["is_active"])  # each for itself: iam.followers listens to it
            self._record(request, user, "change", {"is_active": not active}, {"is_active": active})
        text = ngettext("%(n)s person was changed.", "%(n)s people were changed.", len(changed))
        self.message_user(request, text % {"n": len(changed)})


@admin.register(Project)
class ProjectAdmin(Audited):
    """Projects and their people."""

    list_display = ("name", "id", "created_at")
    search_fields = ("name", "id")
    readonly_fields = ("id", "created_at")
    inlines = (MembershipInline,)
    consequence = _(
        "Its service accounts, API keys, members and invitations go with it, and the gateways refuse their tokens "
        "within two seconds. A project with endpoints or models can't be deleted."
    )

    def has_delete_permission(self, request: HttpRequest, obj: Project | None = None) -> bool:
        """Not while it holds machines and files: those are given back by deleting endpoints and models."""
        empty = obj is not None and not obj.endpoints.exists() and not obj.models.exists()
        return empty and super().has_delete_permission(request, obj)

    def what_goes_with(self, row: Project) -> dict[str, Any]:
        """Everything in it."""
        return belongings.of_project(row)


@admin.register(Membership)
class MembershipAdmin(Audited):
    """Who has which role where."""

    list_display = ("user", "project", "role", "created_at")
    list_filter = ("role", "project")
    list_select_related = ("user", "project")
    search_fields = ("user__email", "project__name")
    autocomplete_fields = ("user", "project")
    consequence = _(
        "The person belongs to the project no more: their open pages of it end within seconds, and the gateways "
        "refuse their API keys of it within two. The account stays."
    )

    def has_delete_permission(self, request: HttpRequest, obj: Membership | None = None) -> bool:
        """Not of a project's last admin. With the whole person, or the whole project, it goes."""
        here = request.resolver_match is not None and "membership" in (request.resolver_match.url_name or "")
        kept = here and obj is not None and obj.is_last_admin
        return super().has_delete_permission(request, obj) and not kept

    def get_readonly_fields(self, request: HttpRequest, obj: Membership | None = None) -> Any:
        """Of a membership its role changes. Another person or project is another membership."""
        return ("user", "project") if obj else ()


@admin.register(Invitation)
class InvitationAdmin(Audited):
    """Links that make whoever opens them a member. They are made in the project, which shows the link once."""

    list_display = ("project", "role", "email", "created_by_name", "created_at", "expires_at", "accepted_at")
    list_filter = ("role", "project")
    list_select_related = ("project",)
    search_fields = ("email", "created_by_name", "project__name")
    fields = (
        *("project", "role", "email", "created_by_name", "created_at", "expires_at"),
        *("accepted_at", "accepted_by"),
    )
    consequence = _("The link works no more. A member who came by it stays.")

    def has_add_permission(self, request: HttpRequest) -> bool:
        """Its link could be shown nowhere."""
        return False

    def has_change_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Withdraw it and make another one."""
        return False
