"""The scenarios of an import: a model file is copied into its volume while something breaks."""

from __future__ import annotations

from tests.faults import rows
from tests.faults.acts import CONVERGE_S, Outcome, until_as_wanted, with_fault
from tests.faults.injections import before, full_volume
from tests.faults.plan import FULL
from tests.faults.story import Story
from tests.support_models import tiny_llama
from tests.support_processes import eventually


def import_model(story: Story, outcome: Outcome) -> None:
    """A small GGUF file; with a full volume the import fails with its cause, and works once there is room."""
    world, name = story.world, story.name
    tiny_llama(world.where.home / "models" / "tiny.gguf")
    before(story)
    with_fault(story, outcome, lambda: _ask(story))
    if story.scenario.fault == FULL:
        _until(story, "FAILED", "no_space")
        full_volume.after(story)
        model = world.person.find("models", name)
        assert model is not None
        world.person.call("POST", f"/api/v1/models/{model['id']}/retry/", {})
    _until(story, "READY")
    outcome.converged_s = until_as_wanted(story)
    model = world.person.find("models", name)
    assert model is not None
    world.person.call("DELETE", f"/api/v1/models/{model['id']}/")
    eventually(
        lambda: not _loose(story), f"weights that no model names are gone: {_loose(story)}", CONVERGE_S
    )


def _ask(story: Story) -> None:
    story.world.person.create(
        "models",
        {"name": story.name, "framework": "llama-cpp", "source": "local", "path": "tiny.gguf", "task": "llm"},
    )


def _until(story: Story, status: str, reason: str = "") -> None:
    def there() -> bool:
        return rows.model(story.world.database, story.name) == (status, reason)

    eventually(there, f"the import is {status} {reason}", CONVERGE_S)


def _loose(story: Story) -> set[str]:
    named = rows.weights(story.world.database)
    return {path.name for path in story.world.volume.iterdir()} - named
