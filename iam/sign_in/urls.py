"""Every address under /accounts/. Named one by one, under the names that allauth asks for: what is not needed here
(changing addresses by mail, resetting passwords by mail, connecting further providers) is not there."""

from allauth.account import views as account
from allauth.mfa.base import views as mfa
from allauth.mfa.recovery_codes import views as recovery_codes
from allauth.mfa.totp import views as totp
from allauth.mfa.webauthn import views as webauthn
from django.urls import include, path
from django.views.decorators.cache import never_cache
from django.views.generic import TemplateView

from iam.views import security

_passkeys = [
    path("", security.to_overview, name="mfa_list_webauthn"),
    path("add/", webauthn.add_webauthn, name="mfa_add_webauthn"),
    path("sign-in/", webauthn.login_webauthn, name="mfa_login_webauthn"),
    path("confirm/", webauthn.reauthenticate_webauthn, name="mfa_reauthenticate_webauthn"),
    path("<int:pk>/rename/", webauthn.edit_webauthn, name="mfa_edit_webauthn"),
    path("<int:pk>/remove/", webauthn.remove_webauthn, name="mfa_remove_webauthn"),
]

_two_step = [
    path("", security.to_overview, name="mfa_index"),
    path("authenticate/", mfa.authenticate, name="mfa_authenticate"),
    path("confirm/", mfa.reauthenticate, name="mfa_reauthenticate"),
    path("app/", never_cache(totp.activate_totp), name="mfa_activate_totp"),
    path("app/remove/", totp.deactivate_totp, name="mfa_deactivate_totp"),
    path("recovery-codes/", security.recovery_codes, name="mfa_view_recovery_codes"),
    path("recovery-codes/new/", recovery_codes.generate_recovery_codes, name="mfa_generate_recovery_codes"),
]

_sessions = [
    path("", security.session_list, name="usersessions_list"),
    path("end/", security.end_others, name="end_other_sessions"),
    path("end-all/", security.end_all, name="end_all_sessions"),
    path("<int:session_id>/end/", security.end_one, name="end_session"),
]

urlpatterns = [
    path("login/", account.login, name="account_login"),
    path("logout/", account.logout, name="account_logout"),
    path("signup/", account.signup, name="account_signup"),
    path("inactive/", account.account_inactive, name="account_inactive"),
    path("confirm/", account.reauthenticate, name="account_reauthenticate"),
    path("password/change/", account.password_change, name="account_change_password"),
    path("password/set/", account.password_set, name="account_set_password"),
    path(
        "password/reset/",
        TemplateView.as_view(template_name="account/password_reset.html"),
        name="account_reset_password",
    ),
    path("security/", security.overview, name="account_security"),
    path("email/", security.to_overview, name="account_email"),
    path("two-step/", include(_two_step)),
    path("passkeys/", include(_passkeys)),
    path("sessions/", include(_sessions)),
    path("sso/", include("iam.sso.urls")),
    path("sso/error/", security.sso_cancelled, name="socialaccount_login_error"),
    path("sso/cancelled/", security.sso_cancelled, name="socialaccount_login_cancelled"),
    path("sso/signup/", account.signup, name="socialaccount_signup"),
    path("sso/connections/", security.to_overview, name="socialaccount_connections"),
]
