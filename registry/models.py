"""Frameworks (what serves a model) and registered models (what is served)."""

from __future__ import annotations

import uuid

from django.db import models
from django.utils.translation import gettext_lazy as _

from config.crypto import EncryptedTextField


class Framework(models.Model):
    """What serves a model. Rows come from registry/frameworks/*.toml; `definition` is validated by
    `registry.frameworks.FrameworkDefinition`, so a new framework is data and no code."""

    slug = models.SlugField(primary_key=True, max_length=40)
    name = models.CharField(_("name"), max_length=80)
    version = models.CharField(_("version"), max_length=40)
    definition = models.JSONField(_("definition"))
    enabled = models.BooleanField(_("enabled"), default=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = _("framework")
        verbose_name_plural = _("frameworks")
        ordering = ["name"]

    def __str__(self) -> str:
        return f"{self.name} {self.version}".strip()


class Source(models.TextChoices):
    """Where a model comes from."""

    LOCAL = "local", _("Local file or folder")
    HUGGING_FACE = "huggingface", _("Hugging Face repository")
    IMAGE = "image", _("Container image")


class ModelStatus(models.TextChoices):
    """How far the import is."""

    IMPORTING = "IMPORTING", _("Importing")
    READY = "READY", _("Ready")
    FAILED = "FAILED", _("Failed")


class ModelTask(models.TextChoices):
    """What the model answers; decides which playground and snippets its endpoint gets."""

    CHAT = "llm", _("Text generation")
    EMBEDDING = "embedding", _("Embeddings")
    OTHER = "other", _("Other")


class RegisteredModel(models.Model):
    """A model that can be served.

    source_ref     what was asked for: {"path"} | {"repo_id", "revision", "files"} and the "commit" it meant |
                   {"image", "port", "health_path", "command", "path"}
    weights_path   where the imported files are on this host, "" for a container image or before READY
    entry_file     the file in weights_path that the framework opens (a GGUF), "" for the whole folder
    facts          what the import read from the files: architecture, context length, parameters, files
    settings       framework settings chosen at import, defaults for every endpoint of the model
    """

    id = models.UUIDField(primary_key=True, default=uuid.uuid4, editable=False)
    project = models.ForeignKey("iam.Project", models.CASCADE, related_name="models")
    name = models.CharField(_("name"), max_length=80)
    # "" while the import has not found out yet; never when READY.
    task = models.CharField(_("task"), max_length=20, choices=ModelTask.choices, blank=True, default="")
    framework = models.ForeignKey(Framework, models.PROTECT, related_name="models")
    source = models.CharField(_("source"), max_length=20, choices=Source.choices)
    source_ref = models.JSONField(default=dict)
    hub_token = EncryptedTextField(blank=True, default="")
    registry_username = models.CharField(max_length=200, blank=True, default="")
    registry_password = EncryptedTextField(blank=True, default="")
    environment = EncryptedTextField(blank=True, default="")  # JSON object; it may hold secrets
    settings = models.JSONField(default=dict, blank=True)
    status = models.CharField(
        _("status"), max_length=12, choices=ModelStatus.choices, default=ModelStatus.IMPORTING, db_index=True
    )
    reason_code = models.CharField(max_length=60, blank=True, default="")
    reason_params = models.JSONField(default=dict, blank=True)
    bytes_done = models.BigIntegerField(default=0)
    bytes_total = models.BigIntegerField(default=0)
    size_bytes = models.BigIntegerField(default=0)
    weights_path = models.CharField(max_length=1000, blank=True, default="")
    entry_file = models.CharField(max_length=400, blank=True, default="")
    facts = models.JSONField(default=dict, blank=True)
    # The import task's claim: who works on it and until when, so that a dead worker's import is taken over.
    lease_token = models.CharField(max_length=40, blank=True, default="")
    lease_until = models.DateTimeField(null=True, blank=True)
    created_by = models.ForeignKey("iam.User", models.SET_NULL, null=True, blank=True, related_name="+")
    created_at = models.DateTimeField(auto_now_add=True)
    updated_at = models.DateTimeField(auto_now=True)

    class Meta:
        verbose_name = _("model")
        verbose_name_plural = _("models")
        ordering = ["-created_at"]
        constraints = [
            models.UniqueConstraint(fields=["project", "name"], name="model_name_unique_in_project")
        ]

    def __str__(self) -> str:
        return self.name
