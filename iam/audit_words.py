"""The audit log in words: what an act, a target and an actor are called. What has no words here is shown as itself."""

from __future__ import annotations

from django.utils.functional import Promise
from django.utils.translation import gettext_lazy as _
from django.utils.translation import pgettext_lazy

# The target stands beside it: no sentence names it.
SENTENCES: dict[str, Promise] = {
    "endpoint.create": _("Created the endpoint"),
    "endpoint.change": _("Changed the endpoint"),
    "endpoint.pause": _("Paused the endpoint"),
    "endpoint.resume": _("Resumed the endpoint"),
    "endpoint.restart": _("Restarted the endpoint"),
    "endpoint.retry": _("Retried the deployment"),
    "endpoint.rollback": _("Rolled the endpoint back to an older revision"),
    "endpoint.keep_revision": _("Kept the revision that serves"),
    "endpoint.delete": _("Deleted the endpoint"),
    "model.import": _("Imported the model"),
    "model.retry_import": _("Retried the model's import"),
    "model.reimport": _("Imported the model again"),
    "model.change": _("Changed the model"),
    "model.delete": _("Deleted the model"),
    "service_account.create": _("Created the service account"),
    "service_account.update": _("Changed the service account"),
    "service_account.disable": _("Disabled the service account"),
    "service_account.enable": _("Enabled the service account"),
    "service_account.expire": _("The service account's date passed"),
    "service_account.delete": _("Deleted the service account"),
    "secret.create": _("Added a secret"),
    "secret.change": _("Changed a secret's date"),
    "secret.delete": _("Deleted a secret"),
    "api_key.create": _("Created the API key"),
    "api_key.change": _("Changed the API key"),
    "api_key.delete": _("Deleted the API key"),
    "member.add": _("Added the member"),
    "member.role": _("Changed the member's role"),
    "member.remove": _("Removed the member"),
    "invitation.create": _("Invited somebody"),
    "invitation.withdraw": _("Withdrew the invitation"),
    "invitation.accept": _("Accepted the invitation"),
    "project.create": _("Created the project"),
    "project.change": _("Changed the project"),
    "project.rename": _("Renamed the project"),
    "project.delete": _("Deleted the project"),
    "user.create": _("Created the person's account"),
    "user.change": _("Changed the person's account"),
    "user.delete": _("Deleted the person's account"),
    "user.sign_up": _("Made an account for themselves"),
    "session.sign_in": _("Signed in"),
    "session.sign_in_failed": _("Failed to sign in"),
    "session.sign_out": _("Signed out"),
    "session.end": _("Ended sessions"),
    "password.change": _("Changed the password"),
    "password.set": _("Set a password"),
    "password.reset": _("Reset the password"),
    "mfa.add": _("Added a second factor"),
    "mfa.change": _("Renamed a passkey"),
    "mfa.remove": _("Removed second factors"),
    "mfa.reset": _("Made new recovery codes"),
    "mfa.failed": _("Failed the second step of signing in"),
    "sso.create": _("Signed in with single sign-on for the first time"),
    "sso.link": _("Linked the account to single sign-on"),
    "audit.export": _("Downloaded the audit log"),
    "region.create": _("Created the region"),
    "region.change": _("Changed the region"),
    "region.delete": _("Deleted the region"),
    "instance_type.create": _("Created the instance type"),
    "instance_type.change": _("Changed the instance type"),
    "instance_type.delete": _("Deleted the instance type"),
    "node.change": _("Changed the node"),
    "node.delete": _("Deleted the node"),
    "gpu.create": _("Entered the GPU"),
    "gpu.change": _("Changed the GPU"),
    "gpu.delete": _("Deleted the GPU"),
    "framework.change": _("Changed the framework"),
    "framework.load": _("Loaded the frameworks from their files"),
    "signing_key.create": _("Made a new signing key"),
    "signing_key.delete": _("Removed a signing key"),
    "secrets_key.create": _("Made a new key for stored secrets"),
    "secrets_key.delete": _("Removed a key of stored secrets"),
    "places.load": _("Loaded regions and instance types from their files"),
}

# The first word of an action, and a target's kind.
KINDS: dict[str, Promise] = {
    "endpoint": _("Endpoint"),
    "model": _("Model"),
    "service_account": _("Service account"),
    "secret": _("Secret"),
    "api_key": _("API key"),
    "member": _("Member"),
    "invitation": _("Invitation"),
    "project": _("Project"),
    "user": _("Person"),
    "session": pgettext_lazy("of a browser", "Session"),
    "password": _("Password"),
    "mfa": _("Second step"),
    "sso": _("Single sign-on"),
    "audit": _("Audit log"),
    "region": _("Region"),
    "instance_type": _("Instance type"),
    "node": _("Node"),
    "gpu": _("GPU"),
    "framework": _("Framework"),
    "places": _("Places"),
    "signing_key": _("Signing key"),
    "secrets_key": _("Key of stored secrets"),
}
# Of the acts that only the platform's staff sees: they belong to no project.
_PLATFORM = frozenset(
    {"region", "instance_type", "node", "gpu", "framework", "places", "signing_key", "secrets_key"}
)


def sentence(action: str) -> str:
    """The act in words."""
    return str(SENTENCES.get(action, action))


def kind_label(kind: str) -> str:
    """A target's kind in words."""
    return str(KINDS.get(kind, kind))


def actor_label(kind: str, name: str) -> str:
    """Who acted, in words."""
    if name:
        return name
    return str(_("Somebody unknown") if kind == "anonymous" else _("The platform"))


def choices() -> list[tuple[str, list[tuple[str, str]]]]:
    """What a project's log can be narrowed to: [(kind, [(action, words)])], each kind's word by its whole group."""
    groups: dict[str, list[tuple[str, str]]] = {}
    for action in SENTENCES:
        kind = action.partition(".")[0]
        if kind not in _PLATFORM:
            groups.setdefault(kind, []).append((action, sentence(action)))
    return [(kind_label(kind), acts) for kind, acts in groups.items()]


def kinds() -> list[tuple[str, str]]:
    """What targets of a project there are: [(kind, words)]."""
    return [(kind, str(words)) for kind, words in KINDS.items() if kind not in _PLATFORM]
