"""The scenarios of an import: a model is downloaded into its volume while something breaks."""

from __future__ import annotations

from tests.faults import rows
from tests.faults.acts import CONVERGE_S, Outcome, until_as_wanted, with_fault
from tests.faults.injections import full_volume
from tests.faults.plan import FULL
from tests.faults.story import Story
from tests.support_hub import Repo
from tests.support_models import tiny_llama
from tests.support_processes import eventually


def import_model(story: Story, outcome: Outcome) -> None:
    """A small GGUF file from a slow hub; with a full volume the import fails with its cause, and works once there is
    room."""
    world, name = story.world, story.name
    world.hub.slow_s = 1.5 + 2 * story.scenario.pick
    world.hub.repos[_repository(story)] = Repo({"tiny.gguf": tiny_llama(world.folder / "tiny").read_bytes()})
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
        {
            **{"name": story.name, "framework": "llama-cpp", "source": "huggingface", "task": "llm"},
            "repo_id": _repository(story),
        },
    )


def _repository(story: Story) -> str:
    return f"faults/{story.name}"


def _until(story: Story, status: str, reason: str = "") -> None:
    def there() -> bool:
        return rows.model(story.world.database, story.name) == (status, reason)

    eventually(there, f"the import is {status} {reason}", CONVERGE_S)


def _loose(story: Story) -> set[str]:
    named = rows.weights(story.world.database)
    return {path.name for path in story.world.volume.iterdir()} - named
