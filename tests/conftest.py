"""Standing test people (owner, editor, viewer, outsider) and their signed-in clients."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis
from django.conf import settings
from django.core.cache import cache
from django.db import connection
from django.test import Client
from django.utils import translation
from pytest_django.plugin import DjangoDbBlocker

from iam.actors import Actor, actor_for_user
from iam.models import Membership, Project, User
from iam.roles import Role
from tests.support_postgres import URL_VARIABLE
from tests.support_redis import redis_at

PASSWORD = "correct horse battery staple"
_WITHOUT = {
    "sqlite": "DROP TRIGGER iam_auditevent_no_delete",
    "postgresql": "DROP TRIGGER iam_auditevent_no_truncate ON iam_auditevent",
}


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Files that may take longest come first, so that no worker is left with one of them when the others are done. In
    the pass on PostgreSQL, leave out what has run on SQLite already and would only do the same again."""
    longest: dict[Path, float] = {}
    for item in items:
        longest[item.path] = max(longest.get(item.path, 0.0), _allowed_s(item))
    items.sort(key=lambda item: -longest[item.path])
    if not os.environ.get(URL_VARIABLE):
        return
    again = [item for item in items if _touches_the_database(item)]
    config.hook.pytest_deselected(items=[item for item in items if item not in set(again)])
    items[:] = again


def _allowed_s(item: pytest.Item) -> float:
    """Its own time limit, 0 without one."""
    limit = item.get_closest_marker("timeout")
    return float(limit.args[0]) if limit and limit.args else 0.0


def _touches_the_database(item: pytest.Item) -> bool:
    """It uses Django's test database and another one could make a difference, or starts a platform that it says runs
    on any database."""
    if item.get_closest_marker("one_database"):
        return False
    fixtures = getattr(item, "fixturenames", ())
    uses = item.get_closest_marker("django_db") or {"db", "transactional_db", "live_server"}.intersection(
        fixtures
    )
    return (
        bool(uses and "browser" not in item.keywords) or item.get_closest_marker("any_database") is not None
    )


def make_member(project: Project, email: str, role: Role) -> User:
    """A person with `role` in `project`, who signs in with PASSWORD."""
    user = User.objects.create_user(email, PASSWORD)
    Membership.objects.create(user=user, project=project, role=role)
    return user


def actor_of(user: User) -> Actor:
    """The actor of a person in their first project."""
    actor = actor_for_user(user)
    assert actor is not None
    return actor


def signed_in(user: User) -> Client:
    """A browser in which `user` has signed in."""
    client = Client()
    client.force_login(user)
    return client


def seen_before(client: Client) -> Client:
    """Its session is noted already, as with every request but a session's first: for those who count queries."""
    assert client.get("/api/v1/regions/").status_code == 200
    return client


@pytest.fixture(scope="session")
def django_db_setup(django_db_setup: None, django_db_blocker: DjangoDbBlocker) -> Iterator[None]:
    """pytest-django's. PostgreSQL drops no database while a thread that has ended long ago is still connected.

    Between tests tables are emptied, SQLite's by DELETE and PostgreSQL's by TRUNCATE. The audit log refuses both: here,
    and only here, it does not.
    """
    with django_db_blocker.unblock(), connection.cursor() as cursor:
        cursor.execute(_WITHOUT[connection.vendor])
    yield
    if connection.vendor == "postgresql":
        with django_db_blocker.unblock(), connection.cursor() as cursor:
            cursor.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )


@pytest.fixture(autouse=True)
def _one_language() -> Iterator[None]:
    """The words of a page in Vietnamese are no other test's: a thread keeps the language of its last request."""
    yield
    translation.activate(settings.LANGUAGE_CODE)


@pytest.fixture(autouse=True)
def _empty_cache() -> Iterator[None]:
    """No test sees another one's counters."""
    cache.clear()
    yield
    cache.clear()


@pytest.fixture
def project(db: None) -> Project:
    """The project that the tests are about."""
    return Project.objects.create(name="Alpha")


@pytest.fixture
def other_project(db: None) -> Project:
    """A project that nobody of `project` belongs to."""
    return Project.objects.create(name="Beta")


@pytest.fixture
def owner(project: Project) -> User:
    """Admin of `project`."""
    return make_member(project, "owner@example.org", Role.ADMIN)


@pytest.fixture
def editor(project: Project) -> User:
    """Editor of `project`: the everyday member."""
    return make_member(project, "editor@example.org", Role.EDITOR)


@pytest.fixture
def viewer(project: Project) -> User:
    """Viewer of `project`."""
    return make_member(project, "viewer@example.org", Role.VIEWER)


@pytest.fixture
def outsider(other_project: Project) -> User:
    """Admin of another project, nobody in `project`."""
    return make_member(other_project, "outsider@example.org", Role.ADMIN)


@pytest.fixture
def owner_client(owner: User) -> Client:
    """The owner's browser."""
    return signed_in(owner)


@pytest.fixture
def editor_client(editor: User) -> Client:
    """The editor's browser."""
    return signed_in(editor)


@pytest.fixture
def viewer_client(viewer: User) -> Client:
    """The viewer's browser."""
    return signed_in(viewer)


@pytest.fixture
def outsider_client(outsider: User) -> Client:
    """The outsider's browser."""
    return signed_in(outsider)


@pytest.fixture
def owner_actor(owner: User) -> Actor:
    """The owner, acting in `project`."""
    return actor_of(owner)


@pytest.fixture
def editor_actor(editor: User) -> Actor:
    """The editor, acting in `project`."""
    return actor_of(editor)


@pytest.fixture
def viewer_actor(viewer: User) -> Actor:
    """The viewer, acting in `project`."""
    return actor_of(viewer)


@pytest.fixture
def outsider_actor(outsider: User) -> Actor:
    """The outsider, acting in the other project."""
    return actor_of(outsider)


@pytest.fixture(scope="session")
def _redis_server() -> Iterator[redis.Redis]:
    """A Redis server where the test settings' REDIS_URL points to."""
    with redis_at(settings.BERTH_RUN_DIR / "redis.sock") as client:
        yield client


@pytest.fixture
def redis_server(_redis_server: redis.Redis) -> redis.Redis:
    """That server, empty."""
    _redis_server.flushall()
    return _redis_server
