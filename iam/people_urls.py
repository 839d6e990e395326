"""The console's addresses about people: the project, its members, invitations. Part of iam.urls."""

from django.urls import path

from iam.views import invitations, members, projects

urlpatterns = [
    path("iam/project/", projects.detail, name="project"),
    path("iam/project/rename/", projects.rename, name="rename_project"),
    path("iam/project/delete/", projects.delete, name="delete_project"),
    path("iam/project/create/", projects.create, name="create_project"),
    path("iam/members/", members.index, name="members"),
    path("iam/members/invite/", members.invite, name="invite"),
    path("iam/members/<int:member_id>/role/", members.change_role, name="change_role"),
    path("iam/members/<int:member_id>/remove/", members.remove, name="remove_member"),
    path("iam/invitations/<int:invitation_id>/withdraw/", members.withdraw, name="withdraw_invitation"),
    path("invitation/", invitations.opened, name="invitation"),
    path("invitation/accept/", invitations.accept, name="accept_invitation"),
    path("invitation/sign-up/", invitations.sign_up, name="sign_up"),
]
