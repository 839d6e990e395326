"""Which limits the gateways are told."""

from __future__ import annotations

from datetime import timedelta

import pytest
from django.utils import timezone

from endpoints import gateway_feed
from endpoints.models import Endpoint
from gateway.targets import Limits
from iam.actors import Actor
from iam.models import ApiKey, Project, ServiceAccount, User
from tests.support_endpoints import load_data, new_endpoint

pytestmark = pytest.mark.django_db


def test_callers_with_a_limit_are_told_unless_they_may_not_call(project: Project) -> None:
    account = {"project": project}
    limited = ServiceAccount.objects.create(name="limited", requests_per_minute=5, **account)
    ServiceAccount.objects.create(name="free", **account)
    ServiceAccount.objects.create(name="disabled", tokens_per_month=5, disabled_at=timezone.now(), **account)
    person = User.objects.create(email="k@x.test")
    key = {"project": project, "user": person, "hint": "abcd", "expires_at": timezone.now() + timedelta(1)}
    with_limit = ApiKey.objects.create(name="limited", tokens_per_minute=7, tokens_per_month=70, **key)
    ApiKey.objects.create(name="blocked", tokens_per_minute=7, blocked=True, **key)
    assert {caller.subject: caller.limits for caller in gateway_feed.targets().callers} == {
        limited.id: Limits(requests_per_minute=5),
        with_limit.id: Limits(tokens_per_minute=7, tokens_per_month=70),
    }


def test_an_endpoint_keeps_its_limits_whatever_it_does(editor_actor: Actor) -> None:
    load_data()
    endpoint = new_endpoint(editor_actor)
    wanted = {"requests_per_minute": 1, "tokens_per_minute": 2, "tokens_per_month": 3}
    Endpoint.objects.filter(id=endpoint.id).update(**wanted, max_concurrency=4)
    (target,) = gateway_feed.targets().endpoints
    assert (target.limits, target.max_concurrency) == (Limits(1, 2, 3), 4)
