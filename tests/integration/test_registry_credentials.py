"""The page where a registry's refusal leads: other credentials, an admin's to give."""

from __future__ import annotations

import pytest
from django.test import Client
from django.urls import reverse

from endpoints.models import Endpoint, Status
from iam.actors import Actor
from registry.models import RegisteredModel, Source
from tests.support_endpoints import load_data, new_endpoint, ready_model

pytestmark = pytest.mark.django_db


@pytest.fixture
def model(owner_actor: Actor) -> RegisteredModel:
    """A private image."""
    load_data()
    return ready_model(
        owner_actor.project, "own", "custom", source=Source.IMAGE, source_ref={"image": "example/private:1"}
    )


def test_an_admin_enters_them_and_they_are_never_shown(owner_client: Client, model: RegisteredModel) -> None:
    page = reverse("registry:detail", args=[model.pk])
    sent = {"registry_username": "puller", "registry_password": "hunter2-secret"}
    answer = owner_client.post(reverse("registry:credentials", args=[model.pk]), sent, follow=True)
    assert answer.redirect_chain[-1][0] == page + "#credentials"
    model.refresh_from_db()
    assert (model.registry_username, model.registry_password) == ("puller", "hunter2-secret")
    text = owner_client.get(page).content.decode()
    assert 'value="puller"' in text
    assert "hunter2" not in text


def test_half_of_them_is_refused(owner_client: Client, model: RegisteredModel) -> None:
    address = reverse("registry:credentials", args=[model.pk])
    text = owner_client.post(address, {"registry_username": "puller"}, follow=True).content.decode()
    assert "or neither" in text
    model.refresh_from_db()
    assert model.registry_username == ""


def test_everybody_else_is_told_whose_they_are(
    model: RegisteredModel,
    editor_client: Client,
    viewer_client: Client,
    outsider_client: Client,
    client: Client,
) -> None:
    address = reverse("registry:credentials", args=[model.pk])
    for other, status in ((editor_client, 403), (viewer_client, 403), (outsider_client, 404), (client, 302)):
        assert other.post(address, {"registry_username": "x", "registry_password": "y"}).status_code == status
    text = editor_client.get(reverse("registry:detail", args=[model.pk])).content.decode()
    assert "Only project admins" in text
    assert 'name="registry_password"' not in text


def test_a_refused_image_leads_there(
    owner_client: Client, owner_actor: Actor, model: RegisteredModel
) -> None:
    endpoint = new_endpoint(owner_actor, model)
    Endpoint.objects.filter(pk=endpoint.pk).update(
        status=Status.FAILED, reason_code="image_denied", reason_params={"image": "example/private:1"}
    )
    text = owner_client.get(reverse("endpoints:detail", args=[endpoint.id])).content.decode()
    assert reverse("registry:detail", args=[model.pk]) + "#credentials" in text
