"""The Revisions tab, what the settings page says before it saves, and the buttons that replace replicas."""

from __future__ import annotations

import html
import re
from datetime import timedelta
from typing import Any

import pytest
from django.test import Client
from django.urls import reverse
from django.utils import timezone
from pytest_django import DjangoAssertNumQueries

from endpoints import history, services
from endpoints.live_pages import EndpointPage
from endpoints.models import Endpoint, Replica, ReplicaState, Status
from iam.actors import Actor
from tests.conftest import seen_before
from tests.support_endpoints import crowded_endpoint, load_data, new_endpoint, ready_model

pytestmark = pytest.mark.django_db
SECRET = "hunter2-very-secret"


@pytest.fixture(autouse=True)
def _data(db: None) -> None:
    load_data()


@pytest.fixture
def endpoint(editor_actor: Actor) -> Endpoint:
    """Two revisions: local-cpu, then a1-standard-2x8. Both with a secret."""
    made = new_endpoint(
        editor_actor, ready_model(editor_actor.project), name="chat-01", environment={"TOKEN": SECRET}
    )
    services.update_endpoint(actor=editor_actor, endpoint=made, changes={"instance_type": "a1-standard-2x8"})
    return Endpoint.objects.get(pk=made.pk)


def address(endpoint: Endpoint, name: str, *more: str) -> str:
    return reverse(f"endpoints:{name}", args=[endpoint.id, *more])


def text_of(answer: Any) -> str:
    return str(answer.content.decode())


def row(page: str, number: int) -> str:
    """One revision's part of the page."""
    return page.split(f'id="rev-{number}"', 1)[1].split('id="rev-', 1)[0]


def words(page: str) -> str:
    """What a reader sees."""
    return " ".join(html.unescape(re.sub(r"<[^>]+>", " ", page)).split())


def filled(endpoint: Endpoint, **changes: Any) -> dict[str, Any]:
    """What the settings page submits, unchanged but for `changes`."""
    assert endpoint.revision is not None
    values: dict[str, Any] = {
        "name": endpoint.name,
        "model_id": str(endpoint.revision.model_id),
        "instance_type": endpoint.revision.instance_type_id,
        "min_replicas": "1",
        "max_replicas": "1",
        "private": "on",
        "env-shown": "1",
        "env-name": [*sorted(endpoint.revision.environment), ""],
        "env-value": ["" for _row in [*endpoint.revision.environment, ""]],
    }
    return {**values, **changes}


# -- the tab -------------------------------------------------------------------------------------------------------


def test_the_tab_tells_who_changed_what(endpoint: Endpoint, editor_client: Client) -> None:
    page = text_of(editor_client.get(address(endpoint, "revisions")))
    newest, first = words(row(page, 2)), words(row(page, 1))
    assert "Rolling out" in newest
    assert "instance type local-cpu → a1-standard-2x8" in newest
    assert "editor@example.org" in newest
    assert "Previous" in first
    assert "instance type local-cpu" in first
    assert "Roll back to this" in row(page, 1)
    assert "Roll back" not in row(page, 2)
    assert SECRET not in page


def test_the_dialog_says_what_a_rollback_would_change(endpoint: Endpoint, editor_client: Client) -> None:
    page = text_of(editor_client.get(address(endpoint, "revisions")))
    assert 'data-confirm="instance type: a1-standard-2x8 → local-cpu"' in row(page, 1)


def test_who_may_see_the_tab_and_who_may_act(
    endpoint: Endpoint,
    owner_client: Client,
    viewer_client: Client,
    outsider_client: Client,
    client: Client,
) -> None:
    tab = address(endpoint, "revisions")
    assert owner_client.get(tab).status_code == 200
    seen = text_of(viewer_client.get(tab))
    assert "/do/" not in seen
    assert "a1-standard-2x8" in seen
    assert outsider_client.get(tab).status_code == 404
    assert client.get(tab)["Location"].startswith("/accounts/login/")
    acts = [
        (address(endpoint, "rollback"), {"revision": "1"}),
        (address(endpoint, "restart"), {}),
        (address(endpoint, "act", "keep"), {}),
        (address(endpoint, "changes"), filled(endpoint)),
    ]
    for url, sent in acts:
        assert viewer_client.post(url, sent).status_code == 403, url
        assert outsider_client.post(url, sent).status_code == 404, url
        assert client.post(url, sent).status_code == 302, url
        assert owner_client.get(url).status_code == 405, url
    assert endpoint.revisions.count() == 2
    for url, sent in acts:
        assert owner_client.post(url, sent).status_code in (200, 302), url
    endpoint.refresh_from_db()
    assert (endpoint.revisions.count(), endpoint.epoch) == (3, 1)


def test_a_long_history_comes_in_pages_at_the_same_cost(
    endpoint: Endpoint,
    editor_actor: Actor,
    editor_client: Client,
    django_assert_max_num_queries: DjangoAssertNumQueries,
) -> None:
    for number in range(history.PAGE):
        change = {"settings": {"max_context": 512 + number}}
        services.update_endpoint(actor=editor_actor, endpoint=endpoint, changes=change)
    seen_before(editor_client)
    with django_assert_max_num_queries(14):
        page = text_of(editor_client.get(address(endpoint, "revisions")))
    shown = [int(n) for n in re.findall(r'id="rev-(\d+)"', page)]
    assert shown == list(range(history.PAGE + 2, 2, -1))
    older = text_of(editor_client.get(address(endpoint, "revisions") + "?before=3"))
    assert [int(n) for n in re.findall(r'id="rev-(\d+)"', older)] == [2, 1]
    assert "&amp;before=3" in older or "&before=3" in older
    for nonsense in ("x", "-1", "9" * 30, "%00", "²"):
        assert editor_client.get(address(endpoint, "revisions") + f"?before={nonsense}").status_code == 200
    assert "No older revision" in text_of(editor_client.get(address(endpoint, "revisions") + "?before=1"))


def test_a_rollout_shows_which_replicas_are_of_which_revision(
    endpoint: Endpoint, editor_actor: Actor, editor_client: Client
) -> None:
    for slot, (number, state) in enumerate([(1, "ready"), (1, "ready"), (2, "starting")], start=1):
        Replica.objects.create(
            endpoint=endpoint,
            revision=endpoint.revisions.get(number=number),
            slot=slot,
            name=f"r{slot}",
            state=state,
        )
    page = text_of(editor_client.get(address(endpoint, "revisions")))
    assert "Still serving 2 × Ready" in words(row(page, 1))
    assert "Rolling out 1 × Starting" in words(row(page, 2))
    Endpoint.objects.filter(pk=endpoint.pk).update(stable_revision=endpoint.revision)
    assert "Current" in words(row(text_of(editor_client.get(address(endpoint, "revisions"))), 2))
    overview = text_of(editor_client.get(address(endpoint, "detail")))
    assert [int(n) for n in re.findall(r"#rev-(\d+)", overview)] == [1, 1, 2]
    # The socket of the tab sends the same, and notices when a replica changes.
    live = EndpointPage(editor_actor, endpoint.id, {"tab": "revisions"})
    assert "Still serving" in live.fragments()["revisions"]
    version = live.version()
    Replica.objects.filter(name="r1").update(state="draining")
    assert live.version() != version
    assert "1 × Ready" in words(live.fragments()["revisions"])


# -- an update that failed -----------------------------------------------------------------------------------------


@pytest.fixture
def taken_back(endpoint: Endpoint) -> Endpoint:
    """Revision 2 ran out of memory; revision 1 serves."""
    failed = endpoint.revisions.get(number=2)
    params = {"memory": "8 GiB", "replica": "berth-x-v2-r1-3"}
    failed.failed_code, failed.failed_params = "out_of_memory", params
    failed.save()
    Replica.objects.create(
        endpoint=endpoint,
        revision=failed,
        slot=1,
        name="berth-x-v2-r1-3",
        state=ReplicaState.FAILED,
        reason_code="out_of_memory",
        ended_at=timezone.now() - timedelta(seconds=5),
        evidence={"exit_code": 137, "oom_killed": True, "logs": "loading\nKilled"},
    )
    Endpoint.objects.filter(pk=endpoint.pk).update(
        revision=endpoint.revisions.get(number=1),
        failed_update={"revision": 2, "code": "out_of_memory", "params": params, "at": "2026-01-01T00:00:00"},
        status=Status.DEGRADED,
        reason_code="out_of_memory",
        reason_params={**params, "revision": 2},
    )
    return Endpoint.objects.get(pk=endpoint.pk)


SENTENCE = (
    "Revision 2 was taken back: The container needed more than its 8 GiB of memory and was ended by the kernel. "
    "Revision 1 serves."
)


def test_an_update_that_was_taken_back_says_why_once_and_what_to_do(
    taken_back: Endpoint, editor_client: Client, viewer_client: Client
) -> None:
    page = text_of(editor_client.get(address(taken_back, "detail")))
    assert words(page).count(SENTENCE) == 1
    card = page.split('id="ep-cause"', 1)[1].split("</section>", 1)[0]
    assert "Killed" in card
    assert address(taken_back, "settings") + "?revision=2" in card
    assert address(taken_back, "act", "keep") in card
    assert address(taken_back, "act", "retry") not in card
    assert f'formaction="{address(taken_back, "rollback")}" name="revision" value="2"' in card
    assert "berth-x-v2-r1-3" in card
    tab = text_of(editor_client.get(address(taken_back, "revisions")))
    assert SENTENCE in words(tab)
    assert "Taken back" in words(row(tab, 2))
    assert "more than its 8 GiB" in words(row(tab, 2))
    seen = text_of(viewer_client.get(address(taken_back, "detail")))
    assert SENTENCE in words(seen)
    assert "/do/" not in seen


def test_it_is_told_apart_from_another_trouble(taken_back: Endpoint, editor_client: Client) -> None:
    Endpoint.objects.filter(pk=taken_back.pk).update(
        status=Status.UPDATING, reason_code="updating", reason_params={}
    )
    page = text_of(editor_client.get(address(taken_back, "detail")))
    banner = page.split('id="ep-update"', 1)[1].split('id="ep-cause"', 1)[0]
    assert SENTENCE in words(banner)
    assert "taken back" not in page.split('id="ep-cause"', 1)[1]


def test_the_settings_page_can_start_from_the_revision_that_failed(
    taken_back: Endpoint, editor_client: Client
) -> None:
    page = text_of(editor_client.get(address(taken_back, "settings") + "?revision=2"))
    chosen = next(part for part in page.split("<input ") if 'value="a1-standard-2x8"' in part)
    assert "checked" in chosen.split(">", 1)[0]
    assert editor_client.get(address(taken_back, "settings") + "?revision=77").status_code == 200


def test_keeping_the_revision_that_serves_ends_it(taken_back: Endpoint, editor_client: Client) -> None:
    editor_client.post(address(taken_back, "act", "keep"))
    taken_back.refresh_from_db()
    assert taken_back.failed_update == {}
    assert SENTENCE not in words(text_of(editor_client.get(address(taken_back, "revisions"))))


# -- before it is saved --------------------------------------------------------------------------------------------


def test_the_form_says_what_it_would_roll_out(endpoint: Endpoint, editor_client: Client) -> None:
    def said(**changes: Any) -> str:
        answer = editor_client.post(address(endpoint, "changes"), filled(endpoint, **changes))
        assert answer.status_code == 200
        assert SECRET not in text_of(answer)
        return words(text_of(answer))

    assert "A new model, instance type" in said()
    assert said(name="other", max_replicas="3") == "At once: name, max replicas"
    told = said(
        instance_type="local-cpu",
        **{"setting.llama-cpp.max_context": "2048", "env-name": ["NEW"], "env-value": ["x"]},
    )
    assert told.startswith(
        "A new revision instance type a1-standard-2x8 → local-cpu Max context length default → 2048"
        " NEW added TOKEN removed"
    )
    assert "one replica at a time while the old ones serve" in told
    # What is half typed is no reason to fail.
    for half in ({"max_replicas": "x"}, {"setting.llama-cpp.max_context": "ma"}, {"instance_type": "nope"}):
        said(**half)
    assert endpoint.revisions.count() == 2


def test_saving_a_revision_leads_to_its_rollout(endpoint: Endpoint, editor_client: Client) -> None:
    answer = editor_client.post(
        address(endpoint, "settings"), filled(endpoint, instance_type="local-cpu"), follow=True
    )
    assert answer.redirect_chain == [(address(endpoint, "detail"), 302)]
    assert "Revision 3 is being rolled out." in text_of(answer)
    now = Endpoint.objects.get(pk=endpoint.pk)
    renamed = editor_client.post(address(endpoint, "settings"), filled(now, name="other"))
    assert renamed["Location"] == address(endpoint, "settings")


def test_variables_are_kept_set_and_removed(endpoint: Endpoint, editor_client: Client) -> None:
    page = text_of(editor_client.get(address(endpoint, "settings")))
    assert 'value="TOKEN"' in page
    assert SECRET not in page

    def save(names: list[str], values: list[str]) -> dict[str, str]:
        sent = filled(endpoint, **{"env-name": names, "env-value": values})
        assert editor_client.post(address(endpoint, "settings"), sent).status_code == 302
        revision = Endpoint.objects.get(pk=endpoint.pk).revision
        assert revision is not None
        return dict(revision.environment)

    assert save(["TOKEN", ""], ["", ""]) == {"TOKEN": SECRET}
    assert save(["TOKEN", "A", "B"], ["", "1", ""]) == {"A": "1", "B": "", "TOKEN": SECRET}
    assert save(["A", "TOKEN"], ["2", "new"]) == {"A": "2", "TOKEN": "new"}
    assert save([""], [""]) == {}
    assert endpoint.revisions.count() == 5


@pytest.mark.parametrize(
    ("names", "values", "message"),
    [
        (["A", "A"], ["1", "2"], "A stands there twice."),
        (["TOKEN", "TOKEN"], ["", "2"], "TOKEN stands there twice."),
        ([""], ["lost"], "Enter a name for each value."),
        (["PATH"], ["/x"], "PATH is set by the platform"),
        (["A-B"], ["/x"], "is no variable name"),
    ],
)
def test_bad_variables_are_said_there_and_nothing_typed_is_lost(
    endpoint: Endpoint, editor_client: Client, names: list[str], values: list[str], message: str
) -> None:
    sent = filled(endpoint, name="renamed", **{"env-name": names, "env-value": values})
    answer = editor_client.post(address(endpoint, "settings"), sent)
    assert answer.status_code == 422
    fold = text_of(answer).split('id="variables"', 1)[1].split("</details>", 1)[0]
    assert fold.split(">", 1)[0].endswith("open")
    assert message in html.unescape(fold)
    for typed in (*names, *values):
        assert not typed or f'value="{typed}"' in fold
    assert 'value="renamed"' in text_of(answer)
    assert endpoint.revisions.count() == 2


def test_variables_come_with_the_wizard_too(editor_actor: Actor, editor_client: Client) -> None:
    model = ready_model(editor_actor.project)
    sent = {
        "name": "fresh",
        "region": "HCM",
        "model_id": str(model.pk),
        "instance_type": "local-cpu",
        "min_replicas": "1",
        "max_replicas": "1",
        "env-shown": "1",
        "env-name": ["TOKEN", ""],
        "env-value": [SECRET, ""],
    }
    assert editor_client.post(reverse("endpoints:create"), sent).status_code == 302
    revision = Endpoint.objects.get(name="fresh").revision
    assert revision is not None
    assert revision.environment == {"TOKEN": SECRET}


# -- interruption --------------------------------------------------------------------------------------------------


@pytest.fixture
def crowded(editor_actor: Actor) -> Endpoint:
    return crowded_endpoint(editor_actor)


def test_the_form_asks_before_it_interrupts_and_keeps_what_was_typed(
    crowded: Endpoint, editor_client: Client
) -> None:
    typed = filled(crowded, name="renamed", **{"setting.vllm.max_context": "2048"})
    asked = words(text_of(editor_client.post(address(crowded, "changes"), typed)))
    assert "needs 1 GPU more (rtx2080ti: 0 free of 1 in HCM)" in asked
    assert "Allow a short interruption" in asked
    answer = editor_client.post(address(crowded, "settings"), typed)
    assert answer.status_code == 422
    page = text_of(answer)
    assert 'value="2048"' in page
    assert 'value="renamed"' in page
    assert 'name="allow_interruption"' in page
    assert crowded.revisions.count() == 2
    answer = editor_client.post(address(crowded, "settings"), typed | {"allow_interruption": "on"})
    assert answer.status_code == 302
    revision = Endpoint.objects.get(pk=crowded.pk).revision
    assert revision is not None
    assert (revision.number, revision.allow_interruption) == (3, True)


def test_what_cannot_fit_is_refused_with_everything_kept(crowded: Endpoint, editor_client: Client) -> None:
    typed = filled(crowded, instance_type="g1-standard-8x32-2rtx2080ti", name="renamed")
    preview = words(text_of(editor_client.post(address(crowded, "changes"), typed)))
    assert "not even if one of the present replicas stops first" in preview
    answer = editor_client.post(address(crowded, "settings"), typed | {"allow_interruption": "on"})
    assert answer.status_code == 422
    assert "not even if one of the present replicas stops first" in html.unescape(text_of(answer))
    assert 'value="renamed"' in text_of(answer)


@pytest.mark.parametrize(("name", "sent"), [("restart", {}), ("rollback", {"revision": "1"})])
def test_a_button_asks_on_a_page_of_its_own(
    crowded: Endpoint, editor_client: Client, name: str, sent: dict[str, str]
) -> None:
    answer = editor_client.post(address(crowded, name), sent)
    assert answer.status_code == 409
    page = text_of(answer)
    assert "needs 1 GPU more" in page
    hidden = dict(
        re.findall(r'<input type="hidden" name="(revision|allow_interruption)" value="(\w+)"', page)
    )
    assert hidden == {**sent, "allow_interruption": "on"}
    generation = Endpoint.objects.get(pk=crowded.pk).generation
    answer = editor_client.post(address(crowded, name), hidden)
    assert answer["Location"] == address(crowded, "detail")
    after = Endpoint.objects.get(pk=crowded.pk)
    assert after.generation == generation + 1
    assert after.revision is not None
    assert after.revision.allow_interruption is True


@pytest.mark.parametrize("number", ["", "0", "99", "x", "²", "9" * 40])
def test_a_revision_that_is_not_there_is_said(endpoint: Endpoint, editor_client: Client, number: str) -> None:
    answer = editor_client.post(address(endpoint, "rollback"), {"revision": number}, follow=True)
    assert "There is no revision" in text_of(answer)
    assert endpoint.revisions.count() == 2


def test_a_restart_of_what_was_paused_meanwhile_is_said(
    endpoint: Endpoint, editor_actor: Actor, editor_client: Client
) -> None:
    assert address(endpoint, "restart") in text_of(editor_client.get(address(endpoint, "detail")))
    services.pause_endpoint(actor=editor_actor, endpoint=endpoint)
    assert address(endpoint, "restart") not in text_of(editor_client.get(address(endpoint, "detail")))
    for url in (address(endpoint, "restart"), address(endpoint, "act", "retry")):
        assert "It is paused" in text_of(editor_client.post(url, follow=True))
