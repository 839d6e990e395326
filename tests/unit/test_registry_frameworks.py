"""Framework definitions: what is shipped, what is refused, settings."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest
from django.core.exceptions import ValidationError
from django.core.management import call_command

from registry.frameworks import (
    DefinitionError,
    FrameworkDefinition,
    definition_of,
    effective_settings,
    load,
    parse,
    read_folder,
    validate_settings,
)
from registry.frameworks.loading import SHIPPED
from registry.models import Framework
from registry.words import FRAMEWORK_WORDS

VLLM = read_folder(SHIPPED)["vllm"]


def vllm() -> FrameworkDefinition:
    return parse(VLLM)


def test_the_five_frameworks_are_shipped_and_every_argument_cites_its_documentation() -> None:
    found = {slug: parse(data) for slug, data in read_folder(SHIPPED).items()}
    assert set(found) == {"llama-cpp", "vllm", "triton", "text-embeddings-inference", "custom"}
    for definition in found.values():
        assert definition.documentation.startswith("https://")
        assert all(argument.source.startswith("https://") for argument in definition.arguments)
        assert all(setting.help and setting.label for setting in definition.settings)
        # A default is a value that a user might have typed.
        defaults = {s.key: s.default for s in definition.settings if s.default is not None}
        assert validate_settings(definition, defaults) == defaults


def test_max_sequences_is_256_for_vllm() -> None:
    assert vllm().setting("max_sequences").default == 256  # type: ignore[union-attr]


@pytest.mark.parametrize(
    ("change", "part"),
    [
        ({"slug": "No Slug"}, "slug"),
        ({"port": 0}, "port"),
        ({"health_path": "health"}, "health_path"),
        ({"accepts": ["pickle"]}, "accepts"),
        ({"device_kinds": []}, "device_kinds"),
        ({"image": ""}, "image"),
        ({"colour": "red"}, "colour"),
        ({"arguments": [{"args": ["--x", "{nonsense}"], "source": "https://a"}]}, "nonsense"),
        ({"arguments": [{"args": ["--x", "{{port}}"], "source": "https://a"}]}, "brace"),
        ({"arguments": [{"args": ["--x"], "source": "because"}]}, "cite"),
        ({"metrics": {"path": "metrics", "source": "https://a", "queued": ["q"]}}, "metrics.path"),
        ({"metrics": {"path": "/m", "source": "https://a", "queued": ["no name"]}}, "metrics.queued"),
        ({"metrics": {"path": "/m", "source": "https://a", "queued": "q"}}, "metrics.queued"),
        ({"metrics": {"path": "/m", "source": "https://a"}}, "names nothing"),
        ({"metrics": {"path": "/m", "source": "because", "queued": ["q"]}}, "metrics.source"),
        ({"metrics": {"path": "/m", "source": "https://a", "queued": ["q"], "port": 70000}}, "metrics.port"),
        ({"metrics": {"path": "/m", "source": "https://a", "queued": ["q"], "colour": "red"}}, "colour"),
        ({"metrics": {"path": "/m", "source": "https://a", "queued": ["q"], "kv_cache_full": 2}}, "full"),
        ({"metrics": {"queued": ["q"]}}, "metrics"),
        ({"arguments": [{"args": ["--x"], "source": "https://a", "when": "moon"}]}, "moon"),
        ({"settings": [{"key": "a", "label": "A", "type": "float", "help": "h"}]}, "type"),
        ({"settings": [{"key": "port", "label": "A", "type": "int", "help": "h"}]}, "taken"),
        ({"settings": [{"key": "a", "label": "A", "type": "choice", "help": "h"}]}, "choices"),
        ({"settings": [{"key": "a", "label": "A", "type": "str", "help": "h", "pattern": "["}]}, "pattern"),
    ],
)
def test_a_wrong_definition_is_refused_with_the_field_named(change: dict[str, Any], part: str) -> None:
    with pytest.raises(DefinitionError, match=part):
        parse({**copy.deepcopy(VLLM), **change})


def test_all_but_custom_containers_say_how_they_do() -> None:
    found = {slug: parse(data).metrics for slug, data in read_folder(SHIPPED).items()}
    assert {slug for slug, metrics in found.items() if metrics is None} == {"custom"}
    triton = found["triton"]
    assert triton is not None
    assert (triton.port, triton.queued) == (8002, ("nv_inference_pending_request_count",))


def test_an_older_file_that_named_the_path_alone_is_still_read() -> None:
    old = {**copy.deepcopy(VLLM), "metrics_path": "/metrics", "metrics_port": 9}
    del old["metrics"]
    assert parse(old).metrics is None


def test_a_wrong_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.toml").write_text("slug = ")
    with pytest.raises(DefinitionError, match=r"broken\.toml"):
        read_folder(tmp_path)


@pytest.mark.django_db
def test_loading_is_idempotent_keeps_enabled_and_takes_changes(settings: Any, tmp_path: Path) -> None:
    settings.BERTH_HOME = tmp_path
    Framework.objects.all().delete()
    assert len(load().created) == 5
    assert load().created == load().changed == ()
    Framework.objects.filter(slug="vllm").update(enabled=False, version="0.1")
    call_command("load_frameworks")
    row = Framework.objects.get(slug="vllm")
    assert (row.version, row.enabled) == (VLLM["version"], False)
    assert definition_of(row) == vllm()


@pytest.mark.django_db
def test_an_operators_own_file_is_a_framework_without_code(settings: Any, tmp_path: Path) -> None:
    settings.BERTH_HOME = tmp_path
    (tmp_path / "frameworks").mkdir()
    (tmp_path / "frameworks" / "mine.toml").write_text(
        (SHIPPED / "vllm.toml").read_text().replace('slug = "vllm"', 'slug = "mine"')
    )
    assert "mine" in load().created or Framework.objects.filter(slug="mine").exists()
    assert definition_of(Framework.objects.get(slug="mine")).slug == "mine"


def test_settings_are_converted_to_their_types_and_empty_means_not_set() -> None:
    cleaned = validate_settings(
        vllm(),
        {
            "max_sequences": " 8 ",
            "max_context": "",
            "dtype": "half",
            "served_model_name": "a/b",
            "tool_call_parser": None,
        },
    )
    assert cleaned == {"max_sequences": 8, "dtype": "half", "served_model_name": "a/b"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("max_sequences", 0),
        ("max_sequences", 5000),
        ("max_sequences", "many"),
        ("max_sequences", 1.5),
        ("max_sequences", True),
        ("max_sequences", [1]),
        ("dtype", "int3"),
        ("dtype", {"a": 1}),
        ("served_model_name", "two words"),
        ("served_model_name", "--trust-remote-code"),
        ("served_model_name", "{{port}}"),
        ("served_model_name", "x" * 201),
        ("colour", "red"),
    ],
)
def test_a_bad_setting_is_an_error_at_its_key(key: str, value: object) -> None:
    with pytest.raises(ValidationError) as caught:
        validate_settings(vllm(), {key: value, "max_context": 4096})
    assert list(caught.value.message_dict) == [key]
    assert caught.value.message_dict[key][0]


def test_layers_win_in_order_and_facts_limit() -> None:
    llama = parse(read_folder(SHIPPED)["llama-cpp"])
    values = effective_settings(
        llama, {"max_sequences": 2, "gone": 1}, {"max_sequences": 3}, facts={"context_length": 512}
    )
    assert values == {"served_model_name": None, "max_context": 512, "max_sequences": 3, "pooling": None}
    assert (
        effective_settings(llama, {"max_context": 256}, facts={"context_length": 512})["max_context"] == 256
    )


def test_every_sentence_of_the_shipped_files_is_marked_for_translation() -> None:
    shown = set()
    for definition in map(parse, read_folder(SHIPPED).values()):
        shown.add(definition.summary)
        shown |= {words for setting in definition.settings for words in (setting.label, setting.help)}
    assert shown == set(FRAMEWORK_WORDS)
