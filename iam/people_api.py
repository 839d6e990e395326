"""The management API of people: projects, members, invitations (contract §4)."""

from __future__ import annotations

from typing import Any

from django.db.models import QuerySet
from django.utils import timezone
from drf_spectacular.utils import extend_schema
from rest_framework import mixins, serializers, status, viewsets
from rest_framework.permissions import BasePermission
from rest_framework.request import Request
from rest_framework.response import Response
from rest_framework.views import APIView

from config.api import ProjectViewSet
from config.known_fields import KnownFields
from config.pagination import CursorPagination
from iam import invitations, membership
from iam.models import Invitation, Membership, Project, User
from iam.roles import Permission, Role


class RolesInProject(serializers.ModelSerializer[Project]):
    """A project, and as what the caller acts in it."""

    roles = serializers.SerializerMethodField()

    class Meta:
        model = Project
        fields = ["id", "name", "roles", "created_at"]
        read_only_fields = fields

    def get_roles(self, project: Project) -> list[str]:
        """The caller's."""
        roles: dict[str, list[str]] = self.context["roles"]
        return roles[project.id]


class ProjectPages(CursorPagination):
    """By name."""

    ordering = "name"


class SignedIn(BasePermission):
    """For what is everybody's own, whatever project they are in, or in none."""

    def has_permission(self, request: Request, view: APIView) -> bool:
        """Whether a person or a service account calls."""
        return bool(request.user and request.user.is_authenticated)


class ProjectsViewSet(mixins.ListModelMixin, viewsets.GenericViewSet[Project]):
    """The projects that the caller belongs to: a person's, or a service account's one."""

    queryset = Project.objects.none()
    serializer_class = RolesInProject
    pagination_class = ProjectPages
    permission_classes = (SignedIn,)

    def get_queryset(self) -> QuerySet[Project]:
        """Those of the caller."""
        return Project.objects.filter(pk__in=self._roles())

    def get_serializer_context(self) -> dict[str, Any]:
        """With the roles."""
        return {**super().get_serializer_context(), "roles": self._roles()}

    def _roles(self) -> dict[str, list[str]]:
        if isinstance(self.request.user, User):
            rows = Membership.objects.filter(user=self.request.user)
            return {project: [role] for project, role in rows.values_list("project_id", "role")}
        actor = getattr(self.request, "actor", None)
        return {actor.project.id: list(actor.roles)} if actor else {}


class MemberSerializer(serializers.ModelSerializer[Membership]):
    """A person's role in the project."""

    email = serializers.EmailField(source="user.email", read_only=True)

    class Meta:
        model = Membership
        fields = ["id", "email", "role", "created_at"]
        read_only_fields = fields


class NewMemberSerializer(KnownFields):
    """Who becomes a member, as what."""

    email = serializers.EmailField()
    role = serializers.ChoiceField(Role.choices)


class NewRoleSerializer(KnownFields):
    """The member's next role."""

    answered = MemberSerializer.Meta.fields
    role = serializers.ChoiceField(Role.choices)


class MemberViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet[Membership]):
    """The people of the project. Needs the role `aiplatform.admin`. A project always keeps one admin (409)."""

    queryset = Membership.objects.select_related("user")
    serializer_class = MemberSerializer
    default_permission = Permission.ADMINISTER
    lookup_value_regex = r"\d{1,18}"

    @extend_schema(request=NewMemberSerializer, responses={201: MemberSerializer})
    def create(self, request: Request) -> Response:
        """Add a person who has an account. Who has none needs an invitation: POST /invitations/."""
        sent = _valid(NewMemberSerializer, request)
        person = membership.person_named(sent["email"])
        if person is None:
            raise serializers.ValidationError({"email": [invitations.nobody_named(sent["email"])]})
        member = membership.add_member(self.actor, person, sent["role"])
        return Response(MemberSerializer(member).data, status=status.HTTP_201_CREATED)

    @extend_schema(request=NewRoleSerializer, responses=MemberSerializer)
    def partial_update(self, request: Request, pk: str) -> Response:
        """Give them another role; it counts at once."""
        member = self.get_object()
        sent = _valid(NewRoleSerializer, request)
        return Response(MemberSerializer(membership.change_role(self.actor, member, sent["role"])).data)

    def destroy(self, request: Request, pk: str) -> Response:
        """Take them out of the project; it counts at once."""
        membership.remove_member(self.actor, self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)


class InvitationSerializer(serializers.ModelSerializer[Invitation]):
    """An open invitation. Its link was shown once."""

    created_by = serializers.CharField(source="created_by_name", read_only=True)

    class Meta:
        model = Invitation
        fields = ["id", "role", "email", "created_by", "created_at", "expires_at"]
        read_only_fields = fields


class CreatedInvitationSerializer(InvitationSerializer):
    """A new invitation with its link, which is shown this once."""

    link = serializers.CharField(read_only=True)

    class Meta(InvitationSerializer.Meta):
        fields = [*InvitationSerializer.Meta.fields, "link"]


class NewInvitationSerializer(KnownFields):
    """Whom to invite, as what, and for how long."""

    role = serializers.ChoiceField(Role.choices)
    email = serializers.EmailField(
        required=False,
        allow_blank=True,
        default="",
        help_text="who alone may accept; empty: whoever has the link",
    )
    days = serializers.IntegerField(
        required=False, default=invitations.DEFAULT_DAYS, min_value=1, max_value=invitations.MAX_DAYS
    )


class InvitationViewSet(mixins.ListModelMixin, mixins.RetrieveModelMixin, ProjectViewSet[Invitation]):
    """The open invitations into the project. Needs the role `aiplatform.admin`; only people create them."""

    queryset = Invitation.objects.all()
    serializer_class = InvitationSerializer
    default_permission = Permission.ADMINISTER
    lookup_value_regex = r"\d{1,18}"

    def get_queryset(self) -> QuerySet[Invitation]:
        """Those that can still be accepted."""
        return super().get_queryset().filter(pk__in=invitations.usable(timezone.now()).values("pk"))

    @extend_schema(request=NewInvitationSerializer, responses={201: CreatedInvitationSerializer})
    def create(self, request: Request) -> Response:
        """Invite somebody. The answer holds `link`; it is never shown again."""
        sent = _valid(NewInvitationSerializer, request)
        made = invitations.create(self.actor, now=timezone.now(), **sent)
        body = {**InvitationSerializer(made.invitation).data, "link": made.link}
        return Response(body, status=status.HTTP_201_CREATED, headers={"Cache-Control": "no-store"})

    def destroy(self, request: Request, pk: str) -> Response:
        """Withdraw it: the link works no more."""
        invitations.withdraw(self.actor, self.get_object())
        return Response(status=status.HTTP_204_NO_CONTENT)


def _valid(shape: type[serializers.Serializer[Any]], request: Request) -> dict[str, Any]:
    serializer = shape(data=request.data)
    serializer.is_valid(raise_exception=True)
    return dict(serializer.validated_data)


routes: list[tuple[str, type[viewsets.ViewSetMixin], str]] = [
    ("projects", ProjectsViewSet, "project"),
    ("members", MemberViewSet, "member"),
    ("invitations", InvitationViewSet, "invitation"),
]
