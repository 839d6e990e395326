"""The demo: a real model behind an authenticated URL, through the same services that the console uses.

Runs as one of the front's processes while the platform is up. Every step says how long it took; the first that
fails is named with its evidence, what was made is removed again (`once`), and the exit status is 1.
"""

from __future__ import annotations

import base64
import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from django.conf import settings
from django.core.exceptions import ValidationError

from config.errors import Conflict
from endpoints.errors import describe
from endpoints.models import DeployPhase, Endpoint, Status
from endpoints.services import (
    EndpointSpec,
    create_endpoint,
    delete_endpoint,
    resume_endpoint,
    retry_endpoint,
)
from iam.actors import Actor, actor_for_user
from iam.models import Membership, ServiceAccount
from iam.roles import Role
from iam.services import create_service_account, delete_service_account
from launcher import readiness, weights
from launcher.terminal import Terminal
from registry.errors import reason_of
from registry.models import ModelStatus, ModelTask, RegisteredModel, Source
from registry.services import ImportSpec, delete_model, import_model

ENDPOINT_NAME = "demo-embeddings"
ACCOUNT_NAME = "demo"
SENTENCES = ("The weather is lovely today.", "It is so sunny outside!", "He drove to the stadium.")
# Of the first sentence with the others: sentence-transformers' figures for the original weights.
EXPECTED = (0.679, 0.104)
TOLERANCE = 0.002
DEPLOY_PATIENCE_S = 240.0
LOOK_EVERY_S = 0.1


class StepFailed(Exception):
    """A step did not come to its end; the text is the evidence, for people."""


@dataclass(slots=True)
class Made:
    """What the demo has made so far."""

    model: RegisteredModel | None = None
    endpoint: Endpoint | None = None
    account: ServiceAccount | None = None
    secret: str = ""
    token: str = ""
    similarities: tuple[float, ...] = ()


@dataclass(slots=True)
class Demo:
    """One run. `began`: time.time() of the command, so that the total includes the start of the platform."""

    terminal: Terminal
    began: float
    probes: tuple[tuple[str, str], ...]
    made: Made = field(default_factory=Made)
    shown: set[int] = field(default_factory=set)

    def run(self) -> None:
        """All steps to the answer. Raises StepFailed."""
        self._step("platform", self.wait_for_platform)
        self._step("weights", self.fetch_weights)
        self._step("model", self.import_weights)
        self._step("endpoint", self.deploy)
        self._step("credentials", self.make_account)
        self._step("token", self.fetch_token)
        self._step("answer", self.call)
        self.terminal.step("", f"after {time.time() - self.began:.1f} s in all")

    def _step(self, name: str, work: Callable[[], str]) -> None:
        began = time.monotonic()
        try:
            said = work()
        except ValidationError as error:
            raise StepFailed(f"{name}: {' '.join(error.messages)}") from error
        except (StepFailed, weights.WeightsError, OSError) as error:
            raise StepFailed(f"{name}: {error}") from error
        self.terminal.step(name, said, time.monotonic() - began)

    # --- the steps ----------------------------------------------------------------------------------------

    def wait_for_platform(self) -> str:
        """Web and gateway answer."""
        with self.terminal.doing("platform", "starting"):
            silent = readiness.wait_at_most(self.probes, 60.0)
        if silent:
            logs = ", ".join(f"{settings.BERTH_HOME}/log/{name}.log" for name in silent)
            raise StepFailed(f"no answer from {' and '.join(silent)} within 60 s; see {logs}")
        return "web and gateway answer"

    def fetch_weights(self) -> str:
        """The model's file, below the models root."""
        with self.terminal.doing("weights", f"{weights.NAME}: fetching and converting") as say:
            path = weights.ensure(
                settings.BERTH_MODELS_ROOT,
                settings.BERTH_HOME / "cache" / "demo",
                settings.ROOT / "locks" / "demo.txt",
                say,
            )
        return f"{path.name}, {path.stat().st_size / 1e6:.0f} MB"

    def import_weights(self) -> str:
        """The model in the registry."""
        actor = first_admin()
        found = RegisteredModel.objects.filter(project=actor.project, name=weights.NAME).first()
        if found is None or found.status == ModelStatus.FAILED:
            if found is not None:
                delete_model(actor, found)
            found = import_model(
                actor,
                ImportSpec(
                    name=weights.NAME,
                    framework="llama-cpp",
                    source=Source.LOCAL,
                    task=ModelTask.EMBEDDING,
                    path=f"{weights.NAME}.gguf",
                ),
            )
        self.made.model = found
        with self.terminal.doing("model", "importing"):
            for _ in _looks(60.0, "the import did not end"):
                found.refresh_from_db()
                if found.status != ModelStatus.IMPORTING:
                    break
        if found.status == ModelStatus.FAILED:
            reason = reason_of(found)
            raise StepFailed(f"{reason.message} {reason.action}" if reason else "the import failed")
        return f"{found.name}, served by {found.framework}"

    def deploy(self) -> str:
        """The endpoint, ACTIVE; its phases as they pass."""
        self.made.endpoint = endpoint = self._endpoint()
        with self.terminal.doing("endpoint", "waiting for a worker") as say:
            for _ in _looks(DEPLOY_PATIENCE_S, "it did not become ACTIVE"):
                endpoint.refresh_from_db()
                self._show_phases(endpoint)
                if endpoint.status == Status.ACTIVE:
                    return f"ACTIVE  {endpoint.url}"
                if endpoint.status == Status.FAILED:
                    raise StepFailed(_why(endpoint))
                say(_present_phase(endpoint))
        raise AssertionError("unreachable")

    def _endpoint(self) -> Endpoint:
        """The one of a demo before, or a new one."""
        assert self.made.model is not None
        actor = first_admin()
        found = Endpoint.objects.filter(project=actor.project, name=ENDPOINT_NAME, deleting_at=None).first()
        if found is None:
            spec = EndpointSpec(ENDPOINT_NAME, "HCM", str(self.made.model.pk), "local-cpu")
            return create_endpoint(actor=actor, spec=spec)
        if found.status == Status.FAILED:
            return retry_endpoint(actor=actor, endpoint=found)
        return resume_endpoint(actor=actor, endpoint=found) if found.paused_at else found

    def _show_phases(self, endpoint: Endpoint) -> None:
        """Phases that have ended since the last look."""
        ended = DeployPhase.objects.filter(replica__endpoint=endpoint, finished_at__isnull=False)
        for phase in ended.filter(replica__ended_at=None).order_by("started_at", "pk"):
            if phase.pk not in self.shown:
                self.shown.add(phase.pk)
                assert phase.finished_at is not None
                took = (phase.finished_at - phase.started_at).total_seconds()
                size = f"  {phase.bytes_done / 1e6:.0f} MB" if phase.bytes_done else ""
                self.terminal.line(f"    {phase.get_name_display():<15}{took:6.2f} s{size}")

    def make_account(self) -> str:
        """A service account; one of a demo before is replaced, because its secret can't be shown again."""
        actor = first_admin()
        for old in ServiceAccount.objects.filter(project=actor.project, name=ACCOUNT_NAME):
            delete_service_account(actor, old)
        self.made.account, self.made.secret = create_service_account(
            actor, ACCOUNT_NAME, [Role.USER], "Made by make demo"
        )
        return f"service account {self.made.account.client_id}"

    def fetch_token(self) -> str:
        """An access token, by the very call that clients make (contract §2)."""
        assert self.made.account is not None
        pair = f"{self.made.account.client_id}:{self.made.secret}"
        request = urllib.request.Request(  # noqa: S310
            f"{settings.BERTH_PUBLIC_URL}/accounts-api/v2/auth/token",
            data=json.dumps({"grant_type": "client_credentials", "scope": "email"}).encode(),
            headers={
                "Authorization": f"Basic {base64.b64encode(pair.encode()).decode()}",
                "Content-Type": "application/json",
            },
        )
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:  # noqa: S310
                document = json.loads(answer.read())
        except urllib.error.HTTPError as error:
            raise StepFailed(f"{error.code} {error.read()[:500].decode('utf-8', 'replace')}") from error
        self.made.token = str(document["access_token"])
        return f"Bearer, for {document['expires_in'] // 60} minutes"

    def call(self) -> str:
        """Three sentences through the gateway with the OpenAI SDK, and whether the figures are right."""
        # Most of a second to import, and only here.
        from openai import APIStatusError, OpenAI, OpenAIError

        assert self.made.endpoint is not None
        client = OpenAI(base_url=f"{self.made.endpoint.url}/v1", api_key=self.made.token, max_retries=0)
        for _ in _looks(60.0, "no replica answered"):
            try:
                answer = client.embeddings.create(
                    model=weights.NAME, input=list(SENTENCES), encoding_format="float"
                )
                break
            except OpenAIError as error:
                # An endpoint of an earlier start counts as ACTIVE until the platform has looked at it again.
                if not isinstance(error, APIStatusError) or error.status_code != 503:
                    raise StepFailed(f"the gateway answered: {error}") from error
                self._show_phases(self.made.endpoint)
        vectors = [item.embedding for item in answer.data]
        self.made.similarities = tuple(cosine(vectors[0], other) for other in vectors[1:])
        for found, expected in zip(self.made.similarities, EXPECTED, strict=True):
            if abs(found - expected) > TOLERANCE:
                raise StepFailed(
                    f"similarity {found:.4f}, expected {expected} ± {TOLERANCE}: the model is not right"
                )
        return f"{len(vectors)} embeddings of {len(vectors[0])} numbers"

    # --- afterwards ---------------------------------------------------------------------------------------

    def clean_up(self) -> str:
        """Remove what this run made and say what it was. Raises StepFailed if the endpoint does not go away."""
        removed = []
        if self.made.account is not None:
            delete_service_account(first_admin(), self.made.account)
            removed.append("account")
        if self.made.endpoint is not None and self._is_new(self.made.endpoint):
            delete_endpoint(actor=first_admin(), endpoint=self.made.endpoint)
            for _ in _looks(60.0, "the endpoint was not removed"):
                if not Endpoint.objects.filter(pk=self.made.endpoint.pk).exists():
                    break
            removed.append("endpoint")
        if self.made.model is not None and self._is_new(self.made.model):
            try:
                delete_model(first_admin(), self.made.model)
            except Conflict as error:  # someone made an endpoint of it meanwhile: it is theirs now
                raise StepFailed(str(error)) from error
            removed.append("model")
        return f"{', '.join(removed)} removed" if removed else "nothing had been made"

    def _is_new(self, row: Endpoint | RegisteredModel) -> bool:
        """Made by this run, not by a demo before it."""
        return row.created_at.timestamp() >= self.began


def first_admin() -> Actor:
    """Who the demo acts as: the person who has been admin of a project for the longest time."""
    membership = (
        Membership.objects.filter(role=Role.ADMIN, user__is_active=True)
        .select_related("user")
        .order_by("created_at")
    ).first()
    actor = actor_for_user(membership.user, membership.project_id) if membership else None
    if actor is None:
        raise StepFailed("nobody is admin of a project; add one in Django's admin")
    return actor


def cosine(one: list[float], other: list[float]) -> float:
    """The similarity of two vectors: their dot product over the product of their lengths."""
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    return dot / (math.hypot(*one) * math.hypot(*other))


def _looks(patience_s: float, complaint: str) -> Iterator[None]:
    """One turn for each look, a moment apart. Raises StepFailed when patience ends."""
    deadline = time.monotonic() + patience_s
    while time.monotonic() < deadline:
        yield
        time.sleep(LOOK_EVERY_S)
    raise StepFailed(f"{complaint} within {patience_s:.0f} s")


def _present_phase(endpoint: Endpoint) -> str:
    phase = DeployPhase.objects.filter(replica__endpoint=endpoint, finished_at=None).last()
    if phase is None:
        return endpoint.get_status_display()
    size = f"  {phase.bytes_done / 1e6:.0f} of {phase.bytes_total / 1e6:.0f} MB" if phase.bytes_total else ""
    return f"{phase.get_name_display()}{size}"


def _why(endpoint: Endpoint) -> str:
    reason = describe(endpoint.reason_code, endpoint.reason_params)
    last = endpoint.replicas.order_by("-created_at").first()
    logs = str(last.evidence.get("logs", "")).strip() if last else ""
    lines = [f"{endpoint.status}: {reason.message} {reason.action}".strip()]
    return "\n".join([*lines, *(f"    {line}" for line in logs.splitlines()[-10:])])
