"""The page that creates an endpoint: what it makes, refuses, keeps and says beforehand."""

from __future__ import annotations

import re

import pytest
from django.test import Client
from django.urls import reverse

from endpoints.models import Endpoint, InstanceType
from iam.actors import Actor
from iam.models import Project
from tests.support_endpoints import filled, load_data, new_endpoint, ready_model


def test_create_leads_to_the_new_endpoint(project: Project, editor_client: Client) -> None:
    load_data()
    model = ready_model(project)
    answer = editor_client.post(reverse("endpoints:create"), filled(model.pk))
    endpoint = Endpoint.objects.get()
    assert answer["Location"] == reverse("endpoints:detail", args=[endpoint.id])
    assert (endpoint.name, endpoint.max_replicas, endpoint.private) == ("embed-01", 2, True)


BAD = [
    ("name", "", "Enter a name."),
    ("name", "x" * 51, "1 to 50 letters"),
    ("name", "a/b", "1 to 50 letters"),
    ("name", "<script>", "1 to 50 letters"),
    ("name", "taken", "already an endpoint named taken"),
    ("region", "MARS", "Choose one of the regions"),
    ("model_id", "", "Choose a model"),
    ("model_id", "3b241101-e2bb-4255-8caf-4136c566a962", "not in the registry any more"),
    ("instance_type", "", "Choose one of the instance types"),
    ("min_replicas", "3", "can&#x27;t be more than max"),
    ("max_replicas", "abc", "whole number from 1 to 10"),
    ("max_replicas", "1.5", "whole number from 1 to 10"),
    ("max_replicas", "99999999999999", "whole number from 1 to 10"),
    ("cpu_percent", "101", "percentage from 1 to 100"),
    ("gpu_percent", "70", "has no GPU"),
    ("cpu_percent", "0", "percentage from 1 to 100"),
    ("cpu_percent", "70.5", "percentage from 1 to 100"),
    ("memory_percent", "-5", "percentage from 1 to 100"),
    ("memory_percent", "lots", "percentage from 1 to 100"),
    ("latency_ms", "0", "milliseconds from 1 to 600000"),
    ("latency_ms", "9" * 60, "milliseconds from 1 to 600000"),
    ("in_flight", "0", "whole number of requests from 1 to"),
    ("in_flight", "1e3", "whole number of requests from 1 to"),
    ("scale_up_after_s", "-1", "seconds from 0 to 3600"),
    ("scale_down_after_s", "3601", "seconds from 0 to 3600"),
    ("idle_timeout_s", "0", "seconds from 1 to 2592000"),
]
NUMBERS_KEPT = (
    *(
        "min_replicas",
        "max_replicas",
        "latency_ms",
        "memory_percent",
        "cpu_percent",
        "gpu_percent",
        "in_flight",
    ),
    *("scale_up_after_s", "scale_down_after_s", "idle_timeout_s"),
)


@pytest.mark.parametrize(("field", "value", "message"), BAD, ids=lambda v: str(v)[:24])
def test_errors_stand_at_their_field_and_nothing_typed_is_lost(
    field: str, value: str, message: str, project: Project, editor_actor: Actor, editor_client: Client
) -> None:
    load_data()
    model = ready_model(project)
    new_endpoint(editor_actor, model, name="taken")
    typed = filled(model.pk, latency_ms="123", memory_percent="81", private=None) | {field: value}
    typed["setting.llama-cpp.max_context"] = "2048"
    answer = editor_client.post(reverse("endpoints:create"), typed)
    assert answer.status_code == 422
    text = answer.content.decode()
    place = text.split(f'data-field="{field}"', 1)[1].split("data-field=", 1)[0]
    assert message in place
    assert Endpoint.objects.count() == 1
    assert re.search(r'<details class="fold"[^>]* open>\s*<summary>Advanced', text)
    for kept in NUMBERS_KEPT:
        if typed.get(kept):
            assert re.search(rf'name="{kept}" value="{re.escape(typed[kept])}"', text), kept
    assert 'value="2048"' in text
    assert not re.search(r'name="private"[^>]*checked', text)


def test_min_0_needs_an_idle_timeout_and_says_so_there(project: Project, editor_client: Client) -> None:
    load_data()
    typed = filled(ready_model(project).pk, min_replicas="0")
    text = editor_client.post(reverse("endpoints:create"), typed).content.decode()
    place = text.split('data-field="idle_timeout_s"', 1)[1].split("data-field=", 1)[0]
    assert "after how many idle seconds" in place
    assert (
        editor_client.post(reverse("endpoints:create"), typed | {"idle_timeout_s": "900"}).status_code == 302
    )


@pytest.mark.parametrize(
    ("typed", "told"),
    [
        ({"min_replicas": "1", "max_replicas": "3"}, {"no_threshold"}),
        ({"min_replicas": "1", "max_replicas": "3", "in_flight": "4"}, set()),
        ({"min_replicas": "2", "max_replicas": "2", "cpu_percent": "70"}, {"no_room"}),
        ({"min_replicas": "1", "max_replicas": "1"}, set()),
        ({"min_replicas": "1", "max_replicas": "1", "idle_timeout_s": "60"}, {"never_idle"}),
        ({"min_replicas": "0", "max_replicas": "1", "idle_timeout_s": "60"}, set()),
        ({"min_replicas": "0", "max_replicas": "2", "idle_timeout_s": "60"}, {"no_threshold"}),
        ({"min_replicas": "3", "max_replicas": "1", "cpu_percent": "70"}, set()),
    ],
)
def test_what_has_no_effect_is_said_and_not_refused(
    typed: dict[str, str], told: set[str], project: Project, editor_client: Client
) -> None:
    load_data()
    model = ready_model(project)
    text = editor_client.post(
        reverse("endpoints:create"), filled(model.pk, name="", **typed)
    ).content.decode()
    notes = dict(re.findall(r'data-note="(\w+)"( hidden)?>', text))
    assert {name for name, hidden in notes.items() if not hidden} == told
    answer = editor_client.post(reverse("endpoints:create"), filled(model.pk, **typed))
    assert answer.status_code == (422 if typed["min_replicas"] == "3" else 302)


def test_all_errors_at_once_framework_settings_included(project: Project, editor_client: Client) -> None:
    load_data()
    model = ready_model(project)
    typed = filled(model.pk, name="a b", max_replicas="11") | {"setting.llama-cpp.max_context": "many"}
    text = editor_client.post(reverse("endpoints:create"), typed).content.decode()
    assert text.count('class="field-error"') == 3
    assert 'value="many"' in text
    fold = text.split('data-framework="llama-cpp"', 2)[2].split(">", 1)[0]
    assert "open" in fold
    assert "hidden" not in fold


def test_framework_settings_are_kept_with_their_types(project: Project, editor_client: Client) -> None:
    load_data()
    model = ready_model(project)
    typed = filled(model.pk) | {
        "setting.llama-cpp.max_context": "2048",
        "setting.llama-cpp.served_model_name": "my-name",
        "setting.vllm.max_context": "99",  # another framework's, typed before the model was changed
    }
    assert editor_client.post(reverse("endpoints:create"), typed).status_code == 302
    revision = Endpoint.objects.get().revision
    assert revision is not None
    assert revision.settings == {"max_context": 2048, "served_model_name": "my-name"}
    assert "my-name" in editor_client.get("/inference/").content.decode()


def test_types_that_cannot_hold_the_model_are_greyed_with_the_reason(
    project: Project, editor_client: Client
) -> None:
    load_data()
    big = ready_model(project, "big", "vllm", size_bytes=30 * 1024**3)
    text = editor_client.get(reverse("endpoints:instance_types"), {"model_id": str(big.pk)}).content.decode()

    def row(name: str) -> str:
        return next(part for part in text.split("<label ")[1:] if f'value="{name}"' in part)

    assert "vLLM needs a GPU" in row("a1-standard-4x16")
    assert "disabled" in row("a1-standard-4x16")
    assert "needs about 36 GiB of VRAM" in row("g1-standard-4x16-1rtx2080ti")
    assert "disabled" not in row("g3-standard-16x64-1a40")


def test_prices_reach_the_summary_unrounded(project: Project, editor_client: Client) -> None:
    load_data()
    InstanceType.objects.filter(name="local-cpu").update(price_month="4944500.50", currency="VND")
    ready_model(project)
    text = editor_client.get(reverse("endpoints:create"), headers={"Accept-Language": "vi"}).content.decode()
    assert 'data-price="4944500.50"' in text
