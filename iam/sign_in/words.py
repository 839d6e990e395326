"""What allauth and Django themselves say to people who sign in here, for our catalogue: allauth ships no Vietnamese,
Django's lacks newer sentences. They ask gettext for exactly these texts (allauth 65.21); nothing reads this list.
"""

from django.utils.translation import gettext_noop as _

ERRORS = (
    _("This account is currently inactive."),
    _("The email address and/or password you specified are not correct."),
    _("A user is already registered with this email address."),
    _("This email address is already associated with this account."),
    _("You cannot remove your primary email address."),
    _("You cannot add more than %d email addresses."),
    _("The email address is not assigned to any user account."),
    _("Your primary email address must be verified."),
    _("Please type your current password."),
    _("You must type the same password each time."),
    _("The new value must be different from the current one."),
    _("Incorrect password."),
    _("Incorrect code."),
    _("Invalid or expired key."),
    _("Invalid login."),
    _("Invalid token."),
    _("The password reset token was invalid."),
    _("Too many failed login attempts. Try again later."),
    _("Be patient, you are sending too many requests."),
    _("Please select only one."),
    _("You cannot add an email address to an account protected by two-factor authentication."),
    _("You cannot activate two-factor authentication until you have verified your email address."),
    _("You cannot deactivate two-factor authentication."),
    _("You cannot generate recovery codes without having two-factor authentication enabled."),
    _(
        "An account already exists with this email address. Please sign in to that account first, then connect"
        " your %s account."
    ),
    _("Your account has no password set up."),
    _("Your account has no verified email address."),
    _("You cannot disconnect your last remaining third-party account."),
    _("The third-party account is already connected to a different account."),
)
MESSAGES = (
    _("Successfully signed in as %(name)s."),
    _("You have signed out."),
    _("Password successfully changed."),
    _("Password successfully set."),
    _("Signed out of all other sessions."),
    _("The third-party account has been connected."),
    _("The third-party account has been disconnected."),
)
LABELS = (
    _("Email"),
    _("Email address"),
    _("Password"),
    _("Password (again)"),
    _("Current Password"),
    _("New Password"),
    _("New Password (again)"),
    _("Remember Me"),
    _("Code"),
    _("Authenticator code"),
    _("Passwordless"),
    _("Recovery codes"),
    _("TOTP Authenticator"),
    _("WebAuthn"),
)
DJANGO = (
    _("Null characters are not allowed."),
    _("Enter a valid UUID."),
    _("Enter a valid JSON."),
    _("“%(pk)s” is not a valid value."),
    _("Enter a valid “slug” consisting of letters, numbers, underscores or hyphens."),
    _("This is not a valid IPv6 address."),
    _("Toggle navigation"),
    _("Filter navigation items"),
)
