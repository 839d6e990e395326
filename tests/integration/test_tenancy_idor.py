"""Nobody reaches another project's objects: every address of the console, the API and the sockets, as everybody.

The addresses come from the URL table (tests.support_tenancy). Project A is full; B's admin, B's service account, an
API key, a viewer of A and somebody who has not signed in try all of it.
"""

from __future__ import annotations

import json
import re
import time
import uuid
from collections.abc import Callable, Iterator
from typing import Any, ClassVar

import pytest
from asgiref.sync import async_to_sync, sync_to_async
from django.conf import settings
from django.db import transaction
from django.test import Client

from config.asgi import application
from endpoints import consumers
from iam.models import Membership
from iam.roles import Role
from tests.conftest import make_member, signed_in
from tests.integration.test_api_fuzz import addresses_of, bodies, filled, operations, properties
from tests.support_endpoints import load_data
from tests.support_sockets import Socket
from tests.support_tenancy import (
    FILTERS,
    NO_OBJECT,
    OBJECTS,
    Route,
    World,
    everything,
    routes,
    sockets,
    world,
)

pytestmark = [pytest.mark.django_db, pytest.mark.one_database]

# What only admins and editors see, contract §7. Everything else of a project is a viewer's to read.
ADMINS_SEE = (
    *("/iam/service-accounts/", "/iam/members/", "/iam/invitations/", "/iam/api-keys/", "/audit/"),
    *("/api/v1/service-accounts/", "/api/v1/members/", "/api/v1/invitations/", "/api/v1/audit-events/"),
    "/api/v1/api-keys/",
)
EDITORS_SEE = frozenset({"credentials", "changes", "dry_run"})
# A person's own: sessions and passkeys. Others' are not there for anybody, whatever their role.
PERSONAL = "/accounts/"


@pytest.fixture
def alpha() -> World:
    """The project that others have no business in."""
    load_data()
    return world("zzalpha")


@pytest.fixture
def beta(alpha: World) -> World:
    """The others."""
    return world("zzbeta")


TABLE = routes()
WITH_OBJECTS = [route for route in TABLE if route.objects]


def tries(alpha: World, beta: World) -> Iterator[tuple[Route, str, str]]:
    """Every address with an object of A in it, with every method."""
    for route in WITH_OBJECTS:
        for address in route.addresses(alpha, beta):
            for method in route.methods():
                yield route, method, address


def body_of(response: Any) -> bytes:
    """Everything a client could read: headers, too."""
    if not response.streaming:
        content = response.content
    elif response.is_async:
        content = async_to_sync(_whole)(response)
    else:
        content = b"".join(response.streaming_content)
    return content + repr(dict(response.items())).encode()


def calls(client: Client) -> Callable[[str, str], Any]:
    """(method, address) → the answer; what is posted is empty JSON in the API, an empty form elsewhere."""

    def call(method: str, address: str) -> Any:
        if method == "get" or not address.startswith("/api/"):
            return getattr(client, method)(address)
        return getattr(client, method)(address, {}, content_type="application/json")

    return call


async def _whole(response: Any) -> bytes:
    return b"".join([part async for part in response.streaming_content])


def refusals(
    alpha: World, beta: World, call: Callable[[str, str], Any], right: Callable[[Route, str, str], bool]
) -> list[str]:
    """What was not refused as it should be, or told something of A."""
    wrong = []
    before = everything()
    for route, method, address in tries(alpha, beta):
        response = call(method, address)
        verdict = f"{method.upper()} {address}: {response.status_code} {response.get('Location', '')}"
        if not right(route, method, (str(response.status_code) + " " + response.get("Location", "")).strip()):
            wrong.append(verdict)
        if shown := alpha.shown_in(body_of(response), asked=address):
            wrong.append(f"{verdict} shows {shown}")
    wrong += [f"{table} changed" for table, rows in everything().items() if rows != before[table]]
    return wrong


def is_sign_in(answer: str) -> bool:
    return answer.startswith("302 /accounts/login/?next=")


def of_nobody(route: Route, _method: str, answer: str) -> bool:
    """What somebody gets who has not signed in."""
    return answer == "401" if route.is_api else is_sign_in(answer) or answer == "405"


def test_the_table_is_whole() -> None:
    """Routes without a known object fail at the import of this file; this says that the walk finds what there is."""
    kinds = {kind for route in WITH_OBJECTS for kind in route.arguments.values()}
    assert {"endpoint", "model", "account", "secret", "key", "member", "invitation", "audit_event"} <= kinds
    assert len(WITH_OBJECTS) > 50


def test_somebody_who_has_not_signed_in(alpha: World, beta: World) -> None:
    assert refusals(alpha, beta, calls(Client()), of_nobody) == []


def test_the_admin_of_another_project(alpha: World, beta: World) -> None:
    """Another project's object is told exactly like one that does not exist."""
    call = calls(signed_in(beta.owner))
    twins: dict[tuple[str, str], int] = {}

    def right(route: Route, method: str, answer: str) -> bool:
        at = (route.template, method)
        twins.setdefault(at, call(method, route.nowhere()).status_code)
        if route.template.startswith(PERSONAL):
            return answer.startswith(f"{twins[at]}") and not answer.startswith("20")
        return answer in ("404", "405") and answer == str(twins[at])

    assert refusals(alpha, beta, call, right) == []


def test_a_service_account_of_another_project(alpha: World, beta: World) -> None:
    client = Client(headers={"Authorization": f"Bearer {beta.token}"})

    def right(route: Route, method: str, answer: str) -> bool:
        return answer in ("404", "405") if route.is_api else of_nobody(route, method, answer)

    assert refusals(alpha, beta, calls(client), right) == []


def test_an_api_key_opens_nothing_but_the_gateway(alpha: World, beta: World) -> None:
    """Not even its own project's management API."""
    client = Client(headers={"Authorization": f"Bearer {alpha.key_text}"})
    assert refusals(alpha, beta, calls(client), of_nobody) == []


def test_a_viewer_of_the_project(alpha: World, beta: World) -> None:
    """Reads what the table of roles says, changes nothing."""
    call = calls(signed_in(make_member(alpha.actor.project, "viewer@example.org", Role.VIEWER)))
    before, wrong = everything(), []
    for route in WITH_OBJECTS:
        for address in route.addresses(alpha):
            read = call("get", address).status_code
            if route.template.startswith((*ADMINS_SEE, PERSONAL)) or route.name in EDITORS_SEE:
                fine = read in (302, 403, 404, 405) and (read != 302 or route.template.startswith(PERSONAL))
            else:
                fine = read == 200 or (read in (403, 405) and not route.reads)
            # A page that only shows answers any method alike; that nothing was written is seen below.
            others = {method: call(method, address).status_code for method in route.methods()}
            allowed = {302 if route.template.startswith(PERSONAL) else 403, 403, 404, 405, read}
            if not fine or not set(others.values()) <= allowed:
                wrong.append(f"{address}: {read}, {others}")
    wrong += [f"{table} changed" for table, rows in everything().items() if rows != before[table]]
    assert wrong == []


def test_the_owner_finds_all_of_it(alpha: World) -> None:
    """Else the refusals above would say nothing: these addresses are right."""
    client = signed_in(alpha.owner)
    missing = []
    for route in WITH_OBJECTS:
        if route.template.startswith(PERSONAL):
            continue
        for address in route.addresses(alpha):
            status = client.get(f"{address}?endpoint={alpha.ids['endpoint']}").status_code
            if status not in (200, 405):
                missing.append(f"{address}: {status}")
    assert missing == []


class TestLists:
    """Addresses without an object: nothing of A, however B filters."""

    @pytest.fixture
    def schema(self, client: Client) -> dict[str, Any]:
        """What the API says of itself."""
        answer: dict[str, Any] = client.get("/api/schema/?format=json").json()["paths"]
        return answer

    def filters(self, schema: dict[str, Any]) -> Iterator[tuple[str, str]]:
        """Address and parameter, for all that the schema names. Fails for one that nobody has explained."""
        unknown = {
            (parameter["name"], path)
            for path, methods in schema.items()
            for parameter in methods.get("get", {}).get("parameters", [])
            if parameter["in"] == "query" and parameter["name"] not in {*FILTERS, *NO_OBJECT}
        }
        assert unknown == set(), "which objects do these parameters name, if any?"
        for path, methods in schema.items():
            for parameter in methods.get("get", {}).get("parameters", []):
                if parameter["in"] == "query":
                    yield path, parameter["name"]

    def test_filters_of_the_api(self, alpha: World, beta: World, schema: dict[str, Any]) -> None:
        clients = {
            "session": signed_in(beta.owner),
            "token": Client(headers={"Authorization": f"Bearer {beta.token}"}),
        }
        wrong = []
        by_path = {route.template.replace("{pk}", "{id}"): route for route in TABLE if route.is_api}
        for path, name in self.filters(schema):
            if name not in FILTERS:
                continue
            for address in by_path[path].addresses(beta):
                asked = f"{address}?{name}={alpha.ids[FILTERS[name]]}"
                for who, client in clients.items():
                    response = client.get(asked)
                    if shown := alpha.shown_in(body_of(response), asked):
                        wrong.append(f"{who} {asked}: {shown}")
                    if response.status_code >= 500:
                        wrong.append(f"{who} {asked}: {response.status_code}")
        assert wrong == []

    def test_every_page_and_list(self, alpha: World, beta: World) -> None:
        """Plain, with every filter at once, and with A as the project that is asked for."""
        everything_of_a = "&".join(f"{name}={alpha.ids[kind]}" for name, kind in FILTERS.items())
        everything_of_a += f"&from={alpha.ids['model']}"
        members = {"admin of B": signed_in(beta.owner), "admin of A": signed_in(alpha.owner)}
        wrong, seen = [], set()
        for route in TABLE:
            if route.template.startswith(PERSONAL):
                continue
            for address in route.addresses(beta):
                for query in ("", everything_of_a, f"project={alpha.project_id}")[
                    1 if route.objects else 0 :
                ]:
                    response = members["admin of B"].get(f"{address}?{query}")
                    if shown := alpha.shown_in(body_of(response), asked=query):
                        wrong.append(f"{address}?{query}: {shown}")
                    if response.status_code >= 500:
                        wrong.append(f"{address}?{query}: {response.status_code}")
            if not route.objects and not route.choices:
                response = members["admin of A"].get(route.template)
                if alpha.mark.encode() in body_of(response):
                    seen.add(route.template)
        assert wrong == []
        # The same pages do show A to its own people.
        pages = ("", "inference/", "registry/", "iam/members/", "iam/service-accounts/", "iam/api-keys/")
        assert {f"/{page}" for page in (*pages, "usage/", "audit/")} <= seen
        lists = ("endpoints", "models", "members", "service-accounts", "api-keys", "invitations", "projects")
        assert {f"/api/v1/{name}/" for name in (*lists, "usage", "audit-events")} <= seen


class TestIdsInBodies:
    """A's ids in what B sends are told like ids of nothing, and nothing is written."""

    def sent(self, alpha: World, beta: World, method: str, address: str, body: dict[str, Any]) -> None:
        call = signed_in(beta.owner)
        before, answers = everything(), []
        for ids in (alpha.ids, dict.fromkeys(alpha.ids, str(uuid.uuid4()))):
            filled = json.loads(json.dumps(body) % ids)
            response = getattr(call, method)(address, filled, content_type="application/json")
            assert alpha.shown_in(body_of(response), asked=json.dumps(filled)) == []
            assert response.status_code == 400, response.content
            answers.append(re.sub(r"(me-)?[0-9a-f-]{36}", "…", response.content.decode()))
        assert answers[0] == answers[1]
        assert everything() == before

    NEW: ClassVar[dict[str, Any]] = {
        "name": "mine",
        "region": "HCM",
        "model": "%(model)s",
        "instance_type": "local-cpu",
    }

    def test_an_endpoint_of_a_foreign_model(self, alpha: World, beta: World) -> None:
        self.sent(alpha, beta, "post", "/api/v1/endpoints/", self.NEW)
        mine = f"/api/v1/endpoints/{beta.ids['endpoint']}/"
        self.sent(alpha, beta, "patch", mine, {"model": "%(model)s"})

    def test_narrowing_to_a_foreign_endpoint(self, alpha: World, beta: World) -> None:
        narrowed = {"name": "mine", "roles": [Role.USER], "endpoints": ["%(endpoint)s"]}
        self.sent(alpha, beta, "post", "/api/v1/service-accounts/", narrowed)
        mine = f"/api/v1/service-accounts/{beta.ids['account']}/"
        self.sent(alpha, beta, "patch", mine, {"endpoints": ["%(endpoint)s"]})
        self.sent(alpha, beta, "post", "/api/v1/api-keys/", {"name": "mine", "endpoints": ["%(endpoint)s"]})

    def test_every_field_of_the_schema(self, alpha: World, beta: World) -> None:
        """Whatever may be written: nothing of A is shown, and ids of A are answered as ids of nothing are."""
        client = signed_in(beta.owner)
        schema = client.get("/api/schema/?format=json").json()
        wrong, sent = [], 0
        for path, method, operation in operations(schema):
            shape = operation.get("requestBody", {}).get("content", {}).get("application/json", {})
            (address,) = addresses_of(path, beta)
            for names, kind in properties(schema, shape["schema"]) if shape else ():
                for name in ("endpoint", "model"):
                    answers = []
                    for value in (alpha.ids[name], re.sub("[0-9a-f]", "0", alpha.ids[name])):
                        given = [value] if kind.get("type") == "array" else value
                        body = filled(bodies(beta).get(path, {}), names, given)
                        with transaction.atomic():
                            call = getattr(client, method)
                            response = call(address, json.dumps(body), content_type="application/json")
                            transaction.set_rollback(True)
                        shown = alpha.shown_in(body_of(response), asked=value)
                        answers.append((response.status_code, shown))
                        sent += 1
                    if answers[0] != answers[1] or answers[0][1]:
                        wrong.append(f"{method} {path} {'.'.join(names)}: {name} {answers}")
        assert wrong == []
        assert sent > 150

    def test_many_at_once(self, alpha: World, beta: World) -> None:
        client = signed_in(beta.owner)
        before = everything()
        for verb in ("pause", "resume", "delete"):
            chosen = {"endpoint": [alpha.ids["endpoint"], beta.ids["endpoint"] + "x"]}
            response = client.post(f"/inference/bulk/{verb}/", chosen, follow=True)
            assert alpha.shown_in(body_of(response)) == []
        assert everything() == before

    def test_going_there(self, alpha: World, beta: World) -> None:
        client = signed_in(beta.owner)
        page = client.post("/console/project/", {"project": alpha.project_id}, follow=True)
        assert alpha.shown_in(body_of(page)) == []
        assert client.session.get("project") != alpha.project_id


@pytest.mark.django_db(transaction=True)
class TestSockets:
    """Every socket of the table, as everybody."""

    @pytest.fixture
    def addresses(self, alpha: World) -> list[str]:
        """With A's objects, and asking for A by name."""
        found = []
        for template, arguments in sockets():
            address = template.format(**{name: alpha.ids[OBJECTS[name]] for name in arguments})
            query = f"replica={alpha.ids['replica_name']}"
            found += [f"{address}?{query}"] if arguments else []
            found.append(f"{address}?{query}&project={alpha.project_id}")
        return found

    async def ends(self, client: Client | None, address: str) -> tuple[int, str]:
        """The code it closes with, 0 if it stays, and what was sent until then."""
        headers = [(b"origin", settings.BERTH_PUBLIC_URL.encode())]
        if client is not None:
            cookie = f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"
            headers.append((b"cookie", cookie.encode()))
        ws = Socket(application, address, headers)
        await ws.connect()
        message = await ws.receive_output(5)
        if message["type"] == "websocket.close":
            return int(message["code"]), ""
        await ws.disconnect()
        return 0, str(message["text"])

    async def test_who_gets_what(self, alpha: World, beta: World, addresses: list[str]) -> None:
        outsider, own = (
            await sync_to_async(signed_in)(beta.owner),
            await sync_to_async(signed_in)(alpha.owner),
        )
        wrong = []
        for address in addresses:
            foreign = {(await self.ends(client, address)) for client in (None, outsider)}
            code, _text = await self.ends(own, address)
            expected = {(4401, ""), (4403 if "project=" in address else 4404, "")}
            if foreign != expected or code != 0:
                wrong.append(f"{address}: {foreign}, its own people {code}")
        assert wrong == []
        assert len(addresses) >= 6

    async def test_it_never_turns_into_another_project(
        self, alpha: World, beta: World, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Whoever belongs to both and loses A: the open list of A ends, and shows nothing of B."""
        monkeypatch.setattr(consumers, "CHECK_S", 0.3)
        join = sync_to_async(Membership.objects.create)
        both = await join(user=alpha.owner, project=beta.actor.project, role=Role.VIEWER)
        client = await sync_to_async(signed_in)(alpha.owner)
        cookie = f"{settings.SESSION_COOKIE_NAME}={client.cookies[settings.SESSION_COOKIE_NAME].value}"
        headers = [(b"origin", settings.BERTH_PUBLIC_URL.encode()), (b"cookie", cookie.encode())]
        ws = Socket(application, "/ws/endpoints/", headers)
        await ws.connect()
        frames = [await ws.receive(5)]
        assert alpha.mark in frames[0]
        gone = Membership.objects.filter(user=alpha.owner).exclude(pk=both.pk)
        await sync_to_async(gone.delete)()
        deadline = time.monotonic() + 10
        while (message := await ws.receive_output(5))["type"] == "websocket.send":
            frames.append(message["text"])
            assert time.monotonic() < deadline, "it goes on"
        assert message["code"] == 4403
        assert not any(beta.mark in frame for frame in frames)
