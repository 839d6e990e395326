"""The console under another name of the same machine."""

from __future__ import annotations

from typing import Any

import pytest
from django.test import Client

pytestmark = pytest.mark.django_db


@pytest.fixture(autouse=True)
def _another_name(settings: Any) -> None:
    settings.BERTH_PUBLIC_URL = "https://berth.example.org"
    settings.MIDDLEWARE = ["config.middleware.CanonicalAddress", *settings.MIDDLEWARE]
    settings.ALLOWED_HOSTS = ["berth.example.org", "127.0.0.1"]


@pytest.mark.parametrize("path", ["/inference/?page=2", "/accounts/login/", "/admin/"])
def test_pages_move_to_the_configured_address(path: str) -> None:
    answer = Client().get(path, headers={"Host": "127.0.0.1:8000"})
    assert (answer.status_code, answer["Location"]) == (302, f"https://berth.example.org{path}")


def test_nobody_is_sent_to_a_place_that_a_path_names() -> None:
    answer = Client().get("//evil.example.net/x", headers={"Host": "127.0.0.1:8000"})
    assert answer["Location"].startswith("https://berth.example.org/")


@pytest.mark.parametrize("path", ["/healthz", "/.well-known/jwks.json", "/api/schema/"])
def test_programs_are_answered_under_every_allowed_name(path: str) -> None:
    assert Client().get(path, headers={"Host": "127.0.0.1:8000"}).status_code == 200


def test_the_configured_address_is_answered_itself() -> None:
    answer = Client().get("/accounts/login/", headers={"Host": "berth.example.org"})
    assert answer.status_code == 200
