"""Every console page of endpoints, as every kind of person."""

from __future__ import annotations

import re
from typing import Any

import pytest
from django.core.management import call_command
from django.test import Client
from django.urls import reverse
from pytest_django import DjangoAssertNumQueries

from endpoints.models import Endpoint, Event, Replica, ReplicaState, Status
from iam.actors import Actor
from iam.models import Membership, Project, User
from iam.roles import Role
from registry.models import ModelTask
from tests.support_endpoints import filled, load_data, new_endpoint, ready_model

TABS = ("detail", "use", "metrics", "logs", "events", "decisions", "revisions", "settings")


@pytest.fixture
def endpoint(editor_actor: Actor) -> Endpoint:
    """One that was just asked for."""
    load_data()
    return new_endpoint(editor_actor, ready_model(editor_actor.project, "tiny"), name="chat-01")


# -- who may see what ---------------------------------------------------------------------------------------------


def pages(endpoint: Endpoint) -> dict[str, str]:
    """Every page by name."""
    named = {name: reverse(f"endpoints:{name}") for name in ("home", "list", "create", "instance_types")}
    return named | {tab: reverse(f"endpoints:{tab}", args=[endpoint.id]) for tab in TABS}


EDITORS_ONLY = {"create", "instance_types"}


def test_members_see_pages_and_outsiders_find_nothing(
    endpoint: Endpoint,
    owner_client: Client,
    editor_client: Client,
    viewer_client: Client,
    outsider_client: Client,
) -> None:
    for name, url in pages(endpoint).items():
        assert owner_client.get(url).status_code == 200, name
        assert editor_client.get(url).status_code == 200, name
        assert viewer_client.get(url).status_code == (403 if name in EDITORS_ONLY else 200), name
        seen = outsider_client.get(url)
        assert seen.status_code == (404 if name in TABS else 200), name
        assert "chat-01" not in seen.content.decode(), name


def test_anonymous_people_are_led_to_sign_in_and_back(endpoint: Endpoint, client: Client) -> None:
    for url in pages(endpoint).values():
        answer = client.get(url)
        assert answer.status_code == 302
        assert answer["Location"].startswith("/accounts/login/?next=")


def test_people_of_no_project_are_told_whom_to_ask(db: None, client: Client) -> None:
    client.force_login(User.objects.create_user("lonely@example.org", "x"))
    answer = client.get("/")
    assert answer.status_code == 403
    assert "Ask an admin to add you" in answer.content.decode()


@pytest.mark.parametrize("verb", ["pause", "resume", "retry", "delete"])
def test_only_editors_act(
    verb: str,
    endpoint: Endpoint,
    editor_client: Client,
    viewer_client: Client,
    outsider_client: Client,
    client: Client,
) -> None:
    url = reverse("endpoints:act", args=[endpoint.id, verb])
    events = Event.objects.filter(target=endpoint.id).count()
    assert viewer_client.post(url).status_code == 403
    assert outsider_client.post(url).status_code == 404
    assert client.post(url).status_code == 302
    assert editor_client.get(url).status_code == 405
    assert Event.objects.filter(target=endpoint.id).count() == events
    assert editor_client.post(url).status_code == 302
    assert Event.objects.filter(target=endpoint.id).count() == events + 1


def test_viewers_get_no_button_that_would_be_refused(endpoint: Endpoint, viewer_client: Client) -> None:
    for name in ("detail", "settings", "list"):
        text = viewer_client.get(pages(endpoint)[name]).content.decode()
        assert "/do/" not in text, name
        assert "data-tick" not in text, name
        assert 'name="min_replicas"' not in text, name
    settings = reverse("endpoints:settings", args=[endpoint.id])
    assert viewer_client.post(settings, {"name": "mine"}).status_code == 403
    endpoint.refresh_from_db()
    assert endpoint.name == "chat-01"


def test_bulk_touches_only_what_was_ticked_in_this_project(
    endpoint: Endpoint, editor_client: Client, viewer_client: Client, outsider_client: Client
) -> None:
    url = reverse("endpoints:bulk", args=["pause"])
    assert viewer_client.post(url, {"endpoint": endpoint.id}).status_code == 403
    outsider_client.post(url, {"endpoint": endpoint.id})
    endpoint.refresh_from_db()
    assert endpoint.paused_at is None
    answer = editor_client.post(url, {"endpoint": [endpoint.id], "back": "search=chat"})
    assert answer["Location"] == "/inference/?search=chat"
    endpoint.refresh_from_db()
    assert endpoint.paused_at is not None


# -- strict content security ----------------------------------------------------------------------------------------


INLINE = re.compile(
    r"<script(?![^>]*\bsrc=)(?![^>]*application/json)|<style|\sstyle=|\son[a-z]+=|javascript:", re.I
)


def test_no_page_needs_more_than_the_strict_policy(endpoint: Endpoint, owner_client: Client) -> None:
    extra = {"login": "/accounts/login/", "security": "/accounts/security/", "lost": "/nothing/"}
    for name, url in (pages(endpoint) | extra).items():
        answer = owner_client.get(url, follow=True)
        assert not INLINE.search(answer.content.decode()), name
        policy = answer["Content-Security-Policy"]
        assert "unsafe" not in policy
        assert "script-src 'self'" in policy


def test_what_people_typed_is_text_everywhere(
    project: Project, editor_actor: Actor, owner_client: Client
) -> None:
    load_data()
    evil = "<img src=x onerror=alert(1)>"
    model = ready_model(project, evil)
    endpoint = new_endpoint(editor_actor, model, name="named")
    Endpoint.objects.filter(pk=endpoint.pk).update(
        status=Status.FAILED, reason_code="image_not_found", reason_params={"image": evil}
    )
    Replica.objects.create(
        endpoint=endpoint,
        revision_id=endpoint.revision_id,
        slot=1,
        name="r",
        state=ReplicaState.FAILED,
        evidence={"logs": f"</pre>{evil}", "error": evil},
    )
    for name, url in pages(endpoint).items():
        text = owner_client.get(url).content.decode()
        assert "<img src=x" not in text, name
    assert "&lt;img src=x" in owner_client.get(pages(endpoint)["detail"]).content.decode()


# -- the list --------------------------------------------------------------------------------------------------------


def _many(actor: Actor, count: int) -> None:
    model = ready_model(actor.project, "shared")
    first = new_endpoint(actor, model, name="n-000")
    for number in range(1, count):
        copy = Endpoint.objects.get(pk=first.pk)
        revision = copy.revision
        assert revision is not None
        copy.pk, copy.name, copy.revision = f"me-{number:08d}", f"n-{number:03d}", None
        copy._state.adding = True
        copy.save()
        revision.pk, revision.endpoint = None, copy
        revision._state.adding = True
        revision.save()
        Endpoint.objects.filter(pk=copy.pk).update(revision=revision)


def test_the_list_costs_the_same_at_any_size(
    editor_actor: Actor,
    editor_client: Client,
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    load_data()
    _many(editor_actor, 120)
    editor_client.get("/")  # a session's first page of a minute also notes that it was seen
    with django_assert_max_num_queries(12):
        text = editor_client.get("/inference/?size=100").content.decode()
    assert text.count('<tr id="ep-me-') == 100
    with django_assert_max_num_queries(14):
        editor_client.get("/")


def test_search_sort_and_pages(editor_actor: Actor, editor_client: Client) -> None:
    load_data()
    _many(editor_actor, 25)

    def names(query: str) -> list[str]:
        return re.findall(r">(n-\d{3})</a>", editor_client.get(f"/inference/?{query}").content.decode())

    assert names("sort=name&size=10") == [f"n-{n:03d}" for n in range(10)]
    assert names("sort=-name&size=10&page=3") == [f"n-{n:03d}" for n in range(4, -1, -1)]
    assert names("sort=name&page=99") == [f"n-{n:03d}" for n in range(20, 25)]
    assert names("search=n-01&sort=name") == [f"n-{n:03d}" for n in range(10, 20)]
    assert names("search=SHARED&sort=name&page=2") == [f"n-{n:03d}" for n in range(10, 20)]
    assert names("search=%25") == []
    assert "Nothing found" in editor_client.get("/inference/?search=zzz").content.decode()


def test_htmx_gets_the_table_alone(endpoint: Endpoint, editor_client: Client) -> None:
    text = editor_client.get(
        "/inference/", headers={"HX-Request": "true", "HX-Target": "list"}
    ).content.decode()
    assert "<html" not in text
    assert "chat-01" in text


def test_an_empty_project_leads_to_the_first_import(
    project: Project, editor_client: Client, viewer_client: Client
) -> None:
    load_data()
    text = editor_client.get("/inference/").content.decode()
    assert "No endpoint yet" in text
    assert reverse("registry:import") in text
    ready_model(project)
    assert reverse("endpoints:create") in editor_client.get("/inference/").content.decode()
    assert "look and call, not create" in viewer_client.get("/inference/").content.decode()


# -- one endpoint ----------------------------------------------------------------------------------------------------


def test_settings_change_in_place_or_make_a_revision(endpoint: Endpoint, editor_client: Client) -> None:
    url = reverse("endpoints:settings", args=[endpoint.id])
    assert endpoint.revision is not None
    same = filled(endpoint.revision.model_id, name="renamed", private=None)
    del same["region"]  # a disabled input is not sent
    assert editor_client.post(url, same).status_code == 302
    endpoint = Endpoint.objects.get()
    assert (endpoint.name, endpoint.private, endpoint.max_replicas) == ("renamed", False, 2)
    assert endpoint.revisions.count() == 1
    assert editor_client.post(url, same | {"instance_type": "a1-standard-2x8"}).status_code == 302
    assert Endpoint.objects.get().revisions.count() == 2
    bad = editor_client.post(url, same | {"max_replicas": "77"})
    assert bad.status_code == 422
    assert 'value="77"' in bad.content.decode()


def test_who_may_only_look_sees_every_limit(endpoint: Endpoint, viewer_client: Client) -> None:
    Endpoint.objects.filter(pk=endpoint.pk).update(in_flight=7, latency_ms=450, scale_down_after_s=90)
    text = viewer_client.get(reverse("endpoints:settings", args=[endpoint.id])).content.decode()
    for name, value in (
        ("Requests in flight per replica", "7"),
        ("Response latency", "450 ms"),
        ("Scale up after", "15 s"),
        ("Scale down after", "90 s"),
    ):
        assert f'<dt>{name}</dt><dd class="num">{value}</dd>' in text


def test_advanced_is_folded_while_it_holds_nothing_of_ones_own(
    endpoint: Endpoint, editor_client: Client
) -> None:
    url = reverse("endpoints:settings", args=[endpoint.id])

    def is_open() -> bool:
        fold = re.search(
            r'<details class="fold"([^>]*)>\s*<summary>Advanced', editor_client.get(url).content.decode()
        )
        assert fold
        return "open" in fold[1]

    assert not is_open()
    Endpoint.objects.filter(pk=endpoint.pk).update(scale_up_after_s=0)
    assert is_open()
    Endpoint.objects.filter(pk=endpoint.pk).update(scale_up_after_s=15, in_flight=3)
    assert is_open()


def test_an_emptied_time_of_scaling_is_its_default_and_no_change(
    endpoint: Endpoint, editor_client: Client
) -> None:
    assert endpoint.revision is not None
    typed = filled(endpoint.revision.model_id, name="chat-01", max_replicas="1")
    url = reverse("endpoints:changes", args=[endpoint.id])
    assert "At once" not in editor_client.post(url, typed).content.decode()
    told = editor_client.post(url, typed | {"scale_down_after_s": "60", "in_flight": "2"}).content.decode()
    assert "At once: threshold of requests in flight, time before scaling down" in told


def test_a_failed_endpoint_shows_the_card_with_the_button_that_helps(
    endpoint: Endpoint, editor_client: Client, viewer_client: Client
) -> None:
    Endpoint.objects.filter(pk=endpoint.pk).update(
        status=Status.FAILED, reason_code="out_of_memory", reason_params={"memory": "4 GiB"}
    )
    Replica.objects.create(
        endpoint=endpoint,
        revision_id=endpoint.revision_id,
        slot=1,
        name="berth-x-1",
        state=ReplicaState.FAILED,
        evidence={"exit_code": 137, "oom_killed": True, "logs": "loading\nKilled"},
    )
    text = editor_client.get(reverse("endpoints:detail", args=[endpoint.id])).content.decode()
    card = text.split('id="ep-cause"', 1)[1].split("</section>", 1)[0]
    for words in ("more than its 4 GiB of memory", "137 (SIGKILL)", "Killed", "Change the configuration"):
        assert words in card
    assert reverse("endpoints:act", args=[endpoint.id, "retry"]) in card
    seen = viewer_client.get(reverse("endpoints:detail", args=[endpoint.id])).content.decode()
    assert "/do/" not in seen
    assert "137 (SIGKILL)" in seen


def test_use_it_tells_the_real_url_and_the_way_to_a_token(
    endpoint: Endpoint, editor_client: Client, settings: Any
) -> None:
    url = reverse("endpoints:use", args=[endpoint.id])
    text = editor_client.get(url).content.decode()
    assert f"{endpoint.url}/v1/chat/completions" in text
    assert f"{settings.BERTH_PUBLIC_URL}/accounts-api/v2/auth/token" in text
    assert endpoint.revision is not None
    model = endpoint.revision.model
    model.task = ModelTask.EMBEDDING
    model.save()
    assert f"{endpoint.url}/v1/embeddings" in editor_client.get(url).content.decode()
    Endpoint.objects.filter(pk=endpoint.pk).update(private=False)
    assert "auth/token" not in editor_client.get(url).content.decode()


def test_a_deleted_endpoint_is_gone_from_every_page(endpoint: Endpoint, editor_client: Client) -> None:
    endpoint.delete()
    for tab in TABS:
        assert editor_client.get(reverse(f"endpoints:{tab}", args=[endpoint.id])).status_code == 404
    assert editor_client.post(reverse("endpoints:act", args=[endpoint.id, "pause"])).status_code == 404


# -- the frame -------------------------------------------------------------------------------------------------------


def test_switching_the_project_needs_membership(
    project: Project, other_project: Project, editor: User, editor_client: Client
) -> None:
    url = reverse("endpoints:switch_project")
    editor_client.post(url, {"project": other_project.id})
    assert "Alpha" in editor_client.get("/").content.decode()
    Membership.objects.create(user=editor, project=other_project, role=Role.VIEWER)
    editor_client.post(url, {"project": other_project.id})
    text = editor_client.get("/").content.decode()
    assert '<p class="sub">Beta</p>' in text
    assert reverse("endpoints:create") not in text  # a viewer there


def test_switches_never_lead_to_another_site(editor_client: Client) -> None:
    call_command("load_places", verbosity=0)
    for evil in ("https://evil.example", "//evil.example", "javascript:alert(1)"):
        answer = editor_client.post(reverse("endpoints:switch_region"), {"region": "HCM", "next": evil})
        assert answer["Location"] == "/"
    assert editor_client.session["region"] == "HCM"
    answer = editor_client.post(reverse("endpoints:set_language"), {"language": "vi", "next": "/inference/"})
    assert answer["Location"] == "/inference/"
    assert '<html lang="vi"' in editor_client.get("/inference/").content.decode()


def test_the_menu_shows_what_the_role_may_open(
    owner_client: Client, viewer_client: Client, owner: User
) -> None:
    seen = viewer_client.get("/").content.decode()
    assert reverse("iam:service_accounts") not in seen
    assert "/admin/" not in seen
    User.objects.filter(pk=owner.pk).update(is_staff=True)
    seen = owner_client.get("/").content.decode()
    assert reverse("iam:service_accounts") in seen
    assert 'href="/admin/"' in seen
