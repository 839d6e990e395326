"""How people sign in: allauth, second factors, sessions, single sign-on."""

from __future__ import annotations

import environ

env = environ.Env()

# Single sign-on with one OpenID Connect provider; without an issuer there is none, and nothing of it is shown.
BERTH_OIDC_ISSUER = env.str("BERTH_OIDC_ISSUER", "").strip()
BERTH_OIDC_CLIENT_ID = env.str("BERTH_OIDC_CLIENT_ID", "")
BERTH_OIDC_CLIENT_SECRET = env.str("BERTH_OIDC_CLIENT_SECRET", "")
BERTH_OIDC_NAME = env.str("BERTH_OIDC_NAME", "single sign-on")
# Only people whose verified address is in one of these domains; empty: all whom the provider lets in.
BERTH_OIDC_DOMAINS = [name.strip().lower() for name in env.list("BERTH_OIDC_DOMAINS", default=[])]
# New people become members of this project (its name or id) with this role; empty: only who has an account gets in.
BERTH_OIDC_PROJECT = env.str("BERTH_OIDC_PROJECT", "")
BERTH_OIDC_ROLE = env.str("BERTH_OIDC_ROLE", "aiplatform.viewer")

AUTHENTICATION_BACKENDS = ["allauth.account.auth_backends.AuthenticationBackend"]
AUTH_PASSWORD_VALIDATORS = [
    {"NAME": f"django.contrib.auth.password_validation.{name}"}
    for name in ("UserAttributeSimilarityValidator", "MinimumLengthValidator", "CommonPasswordValidator")
]
LOGIN_URL = "account_login"
LOGIN_REDIRECT_URL = "/"
ACCOUNT_ADAPTER = "iam.adapters.AccountAdapter"
ACCOUNT_LOGIN_METHODS = {"email"}
ACCOUNT_SIGNUP_FIELDS = ["email*", "password1*"]
ACCOUNT_EMAIL_VERIFICATION = "none"
ACCOUNT_USER_MODEL_USERNAME_FIELD = None
ACCOUNT_LOGOUT_ON_GET = False
ACCOUNT_SESSION_REMEMBER = True
# Guesses are counted in iam.sign_in.limits; allauth's way would let anybody lock another person out.
ACCOUNT_RATE_LIMITS = {"login": None, "login_failed": None}
ACCOUNT_REAUTHENTICATION_TIMEOUT = 300

MFA_ADAPTER = "iam.adapters.MFAAdapter"
MFA_SUPPORTED_TYPES = ["totp", "webauthn", "recovery_codes"]
MFA_PASSKEY_LOGIN_ENABLED = True
MFA_ALLOW_UNVERIFIED_EMAIL = True  # no mail is sent, so no address is ever verified by one
MFA_RECOVERY_CODES_SHOW_ONCE = True
MFA_RECOVERY_CODE_DIGITS = 10
MFA_TOTP_ISSUER = "Berth"
MFA_TOTP_TOLERANCE = 1  # phones' clocks go wrong by some seconds (RFC 6238 §5.2)
MFA_FORMS = {
    "authenticate": "iam.sign_in.forms.CodeForm",
    "reauthenticate": "iam.sign_in.forms.ConfirmByCodeForm",
    "add_webauthn": "iam.sign_in.forms.AddPasskeyForm",
    "edit_webauthn": "iam.sign_in.forms.RenamePasskeyForm",
    "authenticate_webauthn": "iam.sign_in.forms.UsePasskeyForm",
    "login_webauthn": "iam.sign_in.forms.SignInByPasskeyForm",
    "reauthenticate_webauthn": "iam.sign_in.forms.ConfirmByPasskeyForm",
}

SOCIALACCOUNT_ADAPTER = "iam.sso.adapter.SSOAccountAdapter"
SOCIALACCOUNT_LOGIN_ON_GET = (
    True  # a form would need the provider's addresses in the content policy's form-action
)
SOCIALACCOUNT_AUTO_SIGNUP = True
SOCIALACCOUNT_EMAIL_AUTHENTICATION = True  # of verified addresses alone: iam.sso.adapter decides
SOCIALACCOUNT_EMAIL_AUTHENTICATION_AUTO_CONNECT = True
SOCIALACCOUNT_STORE_TOKENS = False
