"""The endpoint that a scenario is about, and what is wanted of it now: what the checker compares with."""

from __future__ import annotations

from dataclasses import dataclass, field

from tests.faults.plan import Scenario
from tests.faults.world import World, endpoint_body


@dataclass
class Wanted:
    """What somebody asked for last.

    identities   what its replicas may have answered at some time
    """

    replicas: int
    identity: str
    paused: bool = False
    gone: bool = False
    identities: set[str] = field(default_factory=set)


@dataclass
class Story:
    """One scenario as it happens on a world.

    name       the endpoint's, and the beginning of its models' names
    endpoint   its id, "" until it is there
    token      for its URL, "" if that is open
    models     letter → the id of the model whose replicas answer with that letter's identity
    strangers  names of containers that no row knows, made by the injection
    notes      what the injection did, for the report
    changes    how many updates have been asked for
    """

    world: World
    scenario: Scenario
    name: str
    wanted: Wanted
    endpoint: str = ""
    token: str = ""
    models: dict[str, str] = field(default_factory=dict)
    strangers: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    changes: int = 0

    def identity(self, letter: str) -> str:
        """What replicas of the model with that letter answer."""
        return f"{self.name}-{letter}"

    def model(self, letter: str) -> str:
        """The id of the model with that letter, made when it is first needed."""
        if letter not in self.models:
            plan = self.scenario
            held = plan.pull_s and (letter == "a") == (plan.request == "create")
            tag = self.identity(letter) if held else "base"
            self.world.registry.hold_s[tag] = plan.pull_s
            identity = self.identity(letter)
            self.models[letter] = self.world.model(identity, identity, ready_s=plan.ready_s, tag=tag)
            self.wanted.identities.add(identity)
        return self.models[letter]

    # --- requests ----------------------------------------------------------------------------------------------

    def create(self) -> None:
        """The endpoint with its first model."""
        body = endpoint_body(self.name, self.model("a"), self.wanted.replicas, gpu=self.scenario.gpu)
        made = self.world.person.create("endpoints", {**body, "private": self.scenario.private})
        self.endpoint = made["id"]

    def update(self) -> None:
        """Another model: a new revision. Each call takes the next letter."""
        self.changes += 1
        letter = "abcdefgh"[self.changes]
        model = self.model(letter)
        self.wanted.identity = self.identity(letter)
        self._call("PATCH", "", {"model": model})

    def scale(self, replicas: int) -> None:
        """Another number of replicas."""
        self.wanted.replicas = replicas
        self._call("PATCH", "", {"min_replicas": replicas})

    def pause(self) -> None:
        """Nothing runs any more."""
        self.wanted.paused = True
        self._call("POST", "pause/")

    def resume(self) -> None:
        """It runs again."""
        self.wanted.paused = False
        self._call("POST", "resume/")

    def restart(self) -> None:
        """The same, anew."""
        self._call("POST", "restart/")

    def delete(self) -> None:
        """Nothing shall be left of it."""
        self.wanted.gone = True
        self._call("DELETE", "")

    def _call(self, method: str, what: str, body: dict[str, object] | None = None) -> None:
        self.world.person.call(method, f"/api/v1/endpoints/{self.endpoint}/{what}", body)

    # --- its containers ----------------------------------------------------------------------------------------

    def containers(self) -> list[dict[str, object]]:
        """Those that run now, in a steady order."""
        found = self.world.engine.api.containers(f"berth.endpoint={self.endpoint}")
        mine = [
            one for one in found if one["State"]["Running"] and one["Name"].lstrip("/") not in self.strangers
        ]
        return sorted(mine, key=lambda one: str(one["Created"]))
