"""SECURITY.md is true: its commands run, what it points at exists, and README leads to it."""

from __future__ import annotations

import os
import re
import shlex
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from django.conf import settings as configured
from django.core.management import call_command

from config import crypto
from iam.models import User

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "SECURITY.md").read_text()
COMMANDS = re.findall(r"^ *\$ (.+)$", PAGE, re.MULTILINE)
PREFIX = ".venv/bin/python manage.py "


def test_its_commands_are_all_known_ones() -> None:
    assert len(COMMANDS) >= 11
    assert all(command.startswith(PREFIX) for command in COMMANDS)


@pytest.mark.django_db
def test_its_commands_run_in_their_order(
    settings: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings.BERTH_HOME = tmp_path
    settings.BERTH_PUBLIC_URL, settings.BERTH_GATEWAY_URL = "https://berth.example", "https://api.example"
    User.objects.create_superuser("admin@example.org", "correct horse battery staple")
    for command in COMMANDS:
        if command.endswith("rotate_secrets_key --drop-old"):
            long_ago = datetime.now(UTC).timestamp() - 3600  # nothing left to wait for
            os.utime(crypto.key_file(), (long_ago, long_ago))
        call_command(*shlex.split(command.removeprefix(PREFIX)))
    said = capsys.readouterr().out
    assert said.count("New key ") == 4
    assert "A new key is on top of keys/secrets.key; 2 are in it." in said
    assert said.count("Removed 1 old keys.") == 2
    assert said.count("password ") == 2


def test_the_tests_that_it_names_exist() -> None:
    named = set(re.findall(r"`(tests/[\w/]+\.py)`", PAGE))
    assert len(named) > 10
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []


def test_the_settings_that_it_names_exist() -> None:
    for name in set(re.findall(r"\bBERTH_[A-Z_]+", PAGE)):
        assert hasattr(configured, name), name
    assert configured.BERTH_SIGNING_KEY_DAYS == 90


def test_the_readme_leads_here() -> None:
    assert "(SECURITY.md)" in (ROOT / "README.md").read_text()
