"""Reading model files: whole ones, broken ones, and files that are something else."""

from __future__ import annotations

import contextlib
import json
import struct
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.errors import FOUND, WORDS, ImportFailure, reason
from registry.importing import gguf_file
from registry.importing.folder import inspect_folder, inspect_repository
from registry.importing.sniff import kind_of
from tests.support_model_files import safetensors_bytes, write_folder, write_gguf


def failure_of(folder: Path, name: str) -> ImportFailure:
    with pytest.raises(ImportFailure) as caught:
        gguf_file.inspect(folder, name)
    return caught.value


def test_a_chat_model_says_what_it_is(tmp_path: Path) -> None:
    write_gguf(tmp_path / "a.gguf", words=100_000)
    found = gguf_file.inspect(tmp_path, "a.gguf")
    assert (found.entry_file, found.task) == ("a.gguf", "llm")
    assert found.facts == {
        "format": "gguf",
        "architecture": "llama",
        "title": "tiny",
        "parameters": 64 * 16,
        "quantization": "F32",
        "context_length": 2048,
        "embedding_length": 16,
        "pooling": "",
        "chat_template": True,
        "files": ["a.gguf"],
    }


@pytest.mark.parametrize(
    ("architecture", "pooling", "task"),
    [
        ("bert", 1, "embedding"),
        ("bert", None, "embedding"),
        ("qwen3", 3, "embedding"),
        ("qwen3", None, "llm"),
        ("bert", 4, "other"),
    ],
)
def test_what_it_is_for(tmp_path: Path, architecture: str, pooling: int | None, task: str) -> None:
    write_gguf(tmp_path / "a.gguf", architecture=architecture, pooling=pooling)
    assert gguf_file.inspect(tmp_path, "a.gguf").task == task


def test_a_split_model_is_read_through_its_first_file(tmp_path: Path) -> None:
    for number in (1, 2):
        write_gguf(tmp_path / f"m-{number:05}-of-00002.gguf")
    found = gguf_file.inspect(tmp_path, "m-00002-of-00002.gguf")
    assert found.entry_file == "m-00001-of-00002.gguf"
    assert found.facts["parameters"] == 2 * 64 * 16
    (tmp_path / "m-00001-of-00002.gguf").unlink()
    failure = failure_of(tmp_path, "m-00002-of-00002.gguf")
    assert (failure.code, failure.params["file"]) == ("gguf_shard_missing", "m-00001-of-00002.gguf")


def test_a_cut_off_file_is_told_with_its_sizes(tmp_path: Path) -> None:
    path = write_gguf(tmp_path / "a.gguf")
    whole = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-100])
    failure = failure_of(tmp_path, "a.gguf")
    assert failure.code == "gguf_truncated"
    assert failure.params["actual"] == whole - 100
    assert failure.params["actual"] < failure.params["expected"] <= whole


@pytest.mark.parametrize(("kind", "found"), [("adapter", "adapter"), ("mmproj", "projector")])
def test_parts_of_models_are_refused(tmp_path: Path, kind: str, found: str) -> None:
    write_gguf(tmp_path / "a.gguf", kind=kind)
    failure = failure_of(tmp_path, "a.gguf")
    assert (failure.code, failure.params["found"]) == ("gguf_part", found)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", "empty"),
        (b"<!DOCTYPE html><html>Sign in", "html"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:aa\n", "lfs_pointer"),
        (safetensors_bytes(), "safetensors"),
        (b"PK\x03\x04rest", "zip"),
        (b"tjggrest", "old_ggml"),
        (b'{"a": 1}', "json"),
        ("xin chào ".encode() * 100, "text"),
        (b"\x00\x01\x02\x03" * 9, "binary"),
        (b"\x7fELF\x02", "program"),
    ],
)
def test_a_file_that_is_no_gguf_is_named_for_what_it_is(tmp_path: Path, content: bytes, kind: str) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    failure = failure_of(tmp_path, "a.gguf")
    assert (failure.code, failure.params["found"]) == ("not_gguf", kind)
    assert str(FOUND[kind]) in reason(failure.code, failure.params).message


def test_every_kind_and_every_code_has_words() -> None:
    assert {kind_of(b"\x00"), kind_of(b"x")} <= FOUND.keys()
    for code, words in WORDS.items():
        told = reason(code, {})
        assert told.message
        assert told.action
        assert words.fix in ("retry", "resume", "token", "again")
    assert reason("a_code_of_tomorrow").message == "a_code_of_tomorrow"


def _gguf_head(version: int, tensors: int, keys: int) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, keys)


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (_gguf_head(1, 0, 0), "gguf_broken"),
        (struct.pack(">4sIQQ", b"GGUF", 3, 0, 0), "gguf_broken"),
        (_gguf_head(3, 1 << 40, 0), "gguf_broken"),
        (_gguf_head(3, 0, 1) + struct.pack("<Q", 1 << 60), "gguf_broken"),
        (_gguf_head(3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<I", 99), "gguf_broken"),
        (
            _gguf_head(3, 0, 1) + struct.pack("<Q", 1) + b"a" + struct.pack("<IIQ", 9, 9, 1 << 50),
            "gguf_broken",
        ),
        (_gguf_head(3, 0, 5), "gguf_truncated"),
        (b"GGUF", "gguf_truncated"),
    ],
)
def test_a_header_that_lies_is_refused(tmp_path: Path, content: bytes, code: str) -> None:
    (tmp_path / "a.gguf").write_bytes(content)
    assert failure_of(tmp_path, "a.gguf").code == code


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_no_damage_crashes_the_reader(data: st.DataObject, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("fuzz")
    content = bytearray(write_gguf(folder / "a.gguf", rows=2, words=20).read_bytes())
    for _ in range(data.draw(st.integers(1, 8))):
        content[data.draw(st.integers(4, len(content) - 1))] = data.draw(st.integers(0, 255))
    del content[data.draw(st.integers(8, len(content))) :]
    (folder / "a.gguf").write_bytes(content)
    with contextlib.suppress(ImportFailure):
        gguf_file.inspect(folder, "a.gguf")


def test_a_hugging_face_folder_says_what_it_is(tmp_path: Path) -> None:
    found = inspect_folder(write_folder(tmp_path / "m"))
    assert (found.entry_file, found.task) == ("", "llm")
    assert found.facts["architecture"] == "Qwen2ForCausalLM"
    assert found.facts["parameters"] == 32
    assert found.facts["context_length"] == 4096
    assert found.facts["chat_template"] is True


@pytest.mark.parametrize(
    ("architecture", "task"),
    [("BertModel", "embedding"), ("XLMRobertaForSequenceClassification", "other"), ("Unheard", "")],
)
def test_what_a_folder_is_for(tmp_path: Path, architecture: str, task: str) -> None:
    assert inspect_folder(write_folder(tmp_path / "m", architecture)).task == task


def test_a_sentence_transformers_folder_is_for_embeddings(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m", "Qwen3ForCausalLM")
    (folder / "modules.json").write_text("[]")
    (folder / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": 256}))
    found = inspect_folder(folder)
    assert (found.task, found.facts["context_length"]) == ("embedding", 256)


@pytest.mark.parametrize(
    "content", [b"", b"abc", (1 << 50).to_bytes(8, "little") + b"{}", (2).to_bytes(8, "little") + b"[]"]
)
def test_a_damaged_safetensors_file_is_named(tmp_path: Path, content: bytes) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(ImportFailure) as caught:
        inspect_folder(folder)
    assert (caught.value.code, caught.value.params["file"]) == ("weights_broken", "model.safetensors")


def test_a_cut_off_safetensors_file_is_named(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors").write_bytes(safetensors_bytes()[:-1])
    with pytest.raises(ImportFailure, match="weights_broken"):
        inspect_folder(folder)


def test_a_folder_without_weights_or_config_is_refused(tmp_path: Path) -> None:
    folder = write_folder(tmp_path / "m")
    (folder / "model.safetensors").unlink()
    with pytest.raises(ImportFailure, match="weights_none"):
        inspect_folder(folder)


def test_a_triton_repository(tmp_path: Path) -> None:
    (tmp_path / "vision" / "1").mkdir(parents=True)
    assert inspect_repository(tmp_path).facts == {"format": "triton", "models": ["vision"]}
    with pytest.raises(ImportFailure, match="repository_none"):
        inspect_repository(tmp_path / "vision" / "1")
