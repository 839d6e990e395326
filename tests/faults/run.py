"""One scenario on a world: ask, strike at the step, wait for what is wanted, end it, and look at all that happened."""

from __future__ import annotations

import time
from collections.abc import Callable

from tests.faults import checker, history, injections, plan
from tests.faults.acts import CONVERGE_S, Outcome, until_as_wanted, with_fault
from tests.faults.importing import import_model
from tests.faults.load import Load
from tests.faults.plan import Scenario
from tests.faults.story import Story, Wanted
from tests.faults.world import BYSTANDER, World
from tests.support_processes import eventually

# Faults that may cost requests to an endpoint that they don't aim at.
COSTLY = frozenset({"kill envoy", "kill dockerd"})


def run(world: World, scenario: Scenario) -> Outcome:
    """Play it."""
    world.count += 1
    name = f"s{scenario.seed}-{world.count}"
    story = Story(world, scenario, name, Wanted(scenario.replicas, f"{name}-a"))
    outcome = Outcome(scenario)
    began, place = time.monotonic(), world.watch.now()
    load = Load(world.gateway)
    load.add(world.bystander)
    try:
        if scenario.request == plan.IMPORT:
            import_model(story, outcome)
        else:
            _play(story, outcome, load)
    except AssertionError as error:
        outcome.problems.append(str(error))
    finally:
        load.stop()
        world.end_helpers()
    time.sleep(0.1)  # the last rows are read
    mine = {world.bystander: {BYSTANDER}, story.endpoint: story.wanted.identities}
    outcome.problems += history.wrong(world.watch.since(place), load.answers, mine)
    if scenario.fault not in COSTLY:
        outcome.problems += history.lost(load.answers, world.bystander)
    outcome.notes += story.notes
    outcome.took_s = time.monotonic() - began
    if outcome.passed:  # else the world is thrown away, with everything in it
        _forget(story)
        _calm(story)
    return outcome


def _play(story: Story, outcome: Outcome, load: Load) -> None:
    scenario, world = story.scenario, story.world
    story.token = world.person.token() if scenario.private else ""
    story.model("a")
    if scenario.request == plan.UPDATE:
        story.model("b")
    injections.before(story)
    if scenario.request != plan.CREATE:
        story.create()
        load.add(story.endpoint, story.token)
        until_as_wanted(story)
    with_fault(story, outcome, _request(story))
    if scenario.request == plan.CREATE:
        load.add(story.endpoint, story.token)
    outcome.converged_s = until_as_wanted(story)
    if not story.wanted.gone:
        outcome.problems += checker.told_in_order(story)
        story.delete()
        until_as_wanted(story)


def _request(story: Story) -> Callable[[], None]:
    return {
        plan.CREATE: story.create,
        plan.UPDATE: story.update,
        plan.UP: lambda: story.scale(story.wanted.replicas + 1),
        plan.DOWN: lambda: story.scale(story.wanted.replicas - 1),
        plan.PAUSE: story.pause,
        plan.RESTART: story.restart,
        plan.DELETE: story.delete,
    }[story.scenario.request]


def _calm(story: Story) -> None:
    """A killed engine ends the bystander's container as well. Over many scenarios that looks like a replica that keeps
    crashing, which is rightly made to wait: begin its history anew, as a person would."""
    if story.scenario.fault == "kill dockerd":
        story.world.person.call("POST", f"/api/v1/endpoints/{story.world.bystander}/restart/")
        eventually(lambda: not checker.differences(story), "the bystander has been restarted", CONVERGE_S)


def _forget(story: Story) -> None:
    """What the scenario brought along: models, images, and the other installation's container."""
    world = story.world
    for model in story.models.values():
        world.person.call("DELETE", f"/api/v1/models/{model}/")
    for letter in "ab":
        world.engine.api.remove_image(world.registry.image(story.identity(letter)))
    for name in story.strangers:
        world.engine.api.remove(name)
