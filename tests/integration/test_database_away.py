"""A database that is stopped or takes no writes any more: named in the form that each caller reads, never a defect."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from django.db import OperationalError, connection
from django.test import Client

from iam.models import User
from tests.conftest import PASSWORD

pytestmark = pytest.mark.django_db
WORDS = "its disk full"


@pytest.fixture
def client() -> Client:
    return Client(raise_request_exception=False)


@pytest.fixture
def full(owner: User) -> Iterator[None]:
    """Every statement fails, as SQLite's do on a full disk."""

    def refuse(*_: object) -> None:
        raise OperationalError("database or disk is full")

    with connection.execute_wrapper(refuse):
        yield


@pytest.mark.usefixtures("full")
def test_a_page_says_so(client: Client) -> None:
    answer = client.post("/accounts/login/", {"login": "owner@example.org", "password": PASSWORD})
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert WORDS in answer.content.decode()


@pytest.mark.usefixtures("full")
def test_the_api_answers_with_a_problem(client: Client) -> None:
    client.cookies["berth_session"] = "x" * 32
    answer = client.get("/api/v1/endpoints/")
    assert (answer.status_code, answer["Content-Type"]) == (503, "application/problem+json")
    assert WORDS in answer.json()["detail"]


@pytest.mark.usefixtures("full")
def test_the_token_call_keeps_its_form(client: Client) -> None:
    answer = client.post(
        "/accounts-api/v2/auth/token",
        {"grant_type": "client_credentials"},
        content_type="application/json",
        headers={"authorization": "Basic eDp5"},
    )
    assert (answer.status_code, answer["Retry-After"]) == (503, "5")
    assert answer.json()["error"] == "temporarily_unavailable"
    assert WORDS in answer.json()["error_description"]
