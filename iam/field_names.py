"""Fields and tables that nobody named are called after their identifiers, in English: here they are translated.

Their names in migrations stay what they are: nothing is asked of the database for a word.
"""

from __future__ import annotations

from typing import Any

from django.apps import apps
from django.utils.translation import gettext_lazy
from django.utils.translation import gettext_noop as _

APPS = ("iam", "endpoints", "registry")
NAMES = (
    *(_("accepted at"), _("accepted by"), _("actor id"), _("actor kind"), _("created at"), _("created by")),
    *(_("created by name"), _("expires at"), _("facts"), _("found"), _("framework"), _("grant"), _("id")),
    *(_("node"), _("project"), _("project id"), _("region"), _("replica"), _("request id"), _("seen at")),
    *(_("settings"), _("size bytes"), _("slug"), _("source ref"), _("target id"), _("target kind")),
    *(_("updated at"), _("use"), _("user"), _("blocked"), _("revocation"), _("revocations")),
)


def translate() -> None:
    """Once, when all models are there."""
    for app in APPS:
        for model in apps.get_app_config(app).get_models():
            for field in model._meta.get_fields():
                if getattr(field, "_verbose_name", "") is None:  # as it was written: None where it was not
                    field.verbose_name = gettext_lazy(str(field.verbose_name))  # type: ignore[union-attr]
            _translate_table(model._meta)


def _translate_table(meta: Any) -> None:
    for name in ("verbose_name", "verbose_name_plural"):
        if name not in meta.original_attrs:
            setattr(meta, name, gettext_lazy(str(getattr(meta, name))))
