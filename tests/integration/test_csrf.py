"""Another site's page riding on a signed-in browser: every address that web answers, generated from the URL table."""

from __future__ import annotations

import itertools
import re
import uuid
from collections.abc import Iterator

import pytest
from allauth.mfa.models import Authenticator
from django.test import Client
from django.urls import Resolver404, resolve
from django.urls.resolvers import URLPattern
from rest_framework.views import APIView

from iam.models import User
from tests.support_endpoints import load_data
from tests.support_tenancy import everything, routes, whole_table, world

pytestmark = [pytest.mark.django_db, pytest.mark.one_database]

UNSAFE = ("post", "put", "patch", "delete")
# They read no cookie: a client's secret or the gateway's token is all that counts there.
WITHOUT_SESSION = ("/internal/", "/accounts-api/")
VALUES = (
    "1",
    f"me-{uuid.uuid4()}",
    f"sa-{uuid.uuid4()}",
    f"key-{uuid.uuid4()}",
    str(uuid.uuid4()),
    "csv",
    "google",
)
EVIL = {"Origin": "https://evil.example", "Referer": "https://evil.example/page"}


def filled(template: str, pattern: URLPattern) -> str:
    """An address of the table; whether its objects exist does not matter, nobody looks for them before the check."""
    template = re.sub(r"{\w+\|(\w+)[^}]*}", r"\1", template)
    names = set(re.findall(r"{(\w+)}", template))
    for values in itertools.product(VALUES, repeat=min(len(names), 2)):
        chosen = dict(zip(sorted(names), itertools.cycle(values or ("",)), strict=False))
        address = template.format(**chosen)
        try:
            if resolve(address).func is pattern.callback:
                return address
        except Resolver404:
            continue
    raise AssertionError(f"{template}: what could stand in it? Add it to VALUES")


def addresses() -> Iterator[tuple[str, URLPattern]]:
    """All but the admin's last resort, which redirects what nobody answers."""
    for template, pattern in whole_table():
        if "(?P<url>" not in template and not template.endswith("{url}"):
            yield filled(template, pattern), pattern


TABLE = list(addresses())


@pytest.fixture
def staff(owner: User) -> Client:
    """The most powerful browser there is, as strict as a real one's server."""
    owner.is_staff = owner.is_superuser = True
    owner.save()
    client = Client(enforce_csrf_checks=True)
    client.force_login(owner)
    client.get("/iam/service-accounts/")  # has a form, and so the cookie
    assert client.cookies["berth_csrf"].value
    return client


def answers_no_session(pattern: URLPattern) -> bool:
    """A view of the API that signs nobody in."""
    given = getattr(pattern.callback, "view_initkwargs", None) or getattr(pattern.callback, "initkwargs", {})
    return given.get("authentication_classes") == []


def is_api(pattern: URLPattern) -> bool:
    """Whether the framework of the API answers there."""
    return issubclass(getattr(pattern.callback, "cls", object), APIView)


def calls(
    client: Client, address: str, headers: dict[str, str], *, all_methods: bool
) -> Iterator[tuple[str, int]]:
    """(method, status): as a form of another site sends it, and as its script would."""
    yield "form", client.post(address, {"name": "x", "_method": "delete"}, headers=headers).status_code
    methods = UNSAFE if address.startswith("/api/") else UNSAFE[1:]
    for method in methods if all_methods else methods[:1]:
        answer = getattr(client, method)(address, {}, content_type="application/json", headers=headers)
        yield method, answer.status_code


@pytest.mark.parametrize("kind", ["no token", "right token from elsewhere"])
def test_nothing_is_changed_for_another_site(staff: Client, kind: str) -> None:
    token = staff.cookies["berth_csrf"].value
    headers = {
        "no token": {},
        "right token from elsewhere": {"X-CSRFToken": token, **EVIL},
    }[kind]
    before, wrong = everything(), []
    for address, pattern in TABLE:
        for method, status in calls(staff, address, headers, all_methods=not headers):
            if address.startswith(WITHOUT_SESSION):
                right = status in (400, 401, 403, 405)
            else:
                right = status == 403 or (status == 405 and answers_no_session(pattern))
                # The API takes JSON alone, which no form can send: it does not even read this one.
                right = right or (method == "form" and status in (400, 415) and is_api(pattern))
            if not right:
                wrong.append(f"{method.upper()} {address}: {status}")
    wrong += [f"{table} changed" for table, rows in everything().items() if rows != before[table]]
    assert wrong == []
    assert len(TABLE) > 150


def test_its_own_pages_may(staff: Client) -> None:
    """Else the refusals above would say nothing."""
    headers = {"X-CSRFToken": staff.cookies["berth_csrf"].value, "Origin": "http://localhost:8000"}
    body = {"name": "mine", "roles": ["aiplatform.user"]}
    url = "/api/v1/service-accounts/"
    assert staff.post(url, body, content_type="application/json", headers=headers).status_code == 201
    assert staff.post("/iam/service-accounts/create/", {}, headers=headers).status_code in (200, 422)


def test_looking_changes_nothing(staff: Client) -> None:
    """What an image's or a link's address could do: nothing. GET, HEAD and OPTIONS, with every object there is."""
    load_data()
    full = world("zzalpha")
    Authenticator.objects.all().delete()  # a passkey of no device: nothing can be asked of it
    browser = Client()
    browser.force_login(full.owner)
    targets = [address for route in routes() for address in route.addresses(full)]
    before = everything()
    for address in targets:
        for method in ("get", "head", "options"):
            getattr(browser, method)(address)
    assert [table for table, rows in everything().items() if rows != before[table]] == []
    assert browser.get("/inference/").status_code == 200, "nor is anybody signed out"
