"""Reading folders: Hugging Face's layout (config.json beside weights) and Triton's model repository."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from registry.errors import ImportFailure
from registry.importing.result import Inspected

_MOST_HEADER = 100_000_000  # the format's own limit: https://huggingface.co/docs/safetensors/index#format
_LLM_SUFFIXES = ("ForCausalLM", "ForConditionalGeneration", "LMHeadModel")


def inspect_folder(folder: Path) -> Inspected:
    """What the model in Hugging Face's layout is. Raises ImportFailure weights_none or weights_broken."""
    config = _json(folder / "config.json")
    safetensors = sorted(folder.glob("*.safetensors"))
    if config is None or not (safetensors or list(folder.glob("*.bin")) or list(folder.rglob("*.onnx"))):
        raise ImportFailure("weights_none", where=folder.name)
    text = config.get("text_config") if isinstance(config.get("text_config"), dict) else config
    architectures = config.get("architectures")
    architecture = str(architectures[0]) if isinstance(architectures, list) and architectures else ""
    facts = {
        "format": "safetensors" if safetensors else "pytorch",
        "architecture": architecture or str(config.get("model_type", "")),
        "parameters": sum(_parameters(path) for path in safetensors),
        "quantization": _quantization(config),
        "context_length": _context_length(folder, text or config),
        "embedding_length": _number(text or config, "hidden_size"),
        "chat_template": _has_chat_template(folder),
        "files": sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()),
    }
    return Inspected("", _task(folder, architecture), facts)


def inspect_repository(folder: Path) -> Inspected:
    """The models of a Triton repository: <model>/<number>/. Raises ImportFailure repository_none.

    Layout: https://docs.nvidia.com/deeplearning/triton-inference-server/user-guide/docs/user_guide/model_repository.html
    """
    models = sorted(
        child.name
        for child in folder.iterdir()
        if child.is_dir() and any(version.is_dir() and version.name.isdigit() for version in child.iterdir())
    )
    if not models:
        raise ImportFailure("repository_none", where=folder.name)
    return Inspected("", "other", {"format": "triton", "models": models})


def _parameters(path: Path) -> int:
    """Elements of all tensors of a safetensors file, which must be whole.

    Format: 8 bytes little-endian length of a JSON header {name: {dtype, shape, data_offsets}}, the header, the data.
    """
    size = path.stat().st_size
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if size < 10 or length > min(size - 8, _MOST_HEADER):
            raise ImportFailure("weights_broken", file=path.name, detail="its header is cut off")
        try:
            header = json.loads(file.read(length))
            tensors = [value for key, value in header.items() if key != "__metadata__"]
            end = max((int(tensor["data_offsets"][1]) for tensor in tensors), default=0)
            parameters = sum(math.prod(tensor["shape"]) for tensor in tensors)
        except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
            raise ImportFailure(
                "weights_broken", file=path.name, detail="its header makes no sense"
            ) from error
    if 8 + length + end != size:
        detail = f"it should have {8 + length + end} bytes and has {size}"
        raise ImportFailure("weights_broken", file=path.name, detail=detail)
    return int(parameters)


def _json(path: Path) -> dict[str, Any] | None:
    try:
        data = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise ImportFailure("weights_broken", file=path.name, detail="it is no JSON") from error
    return data if isinstance(data, dict) else None


def _task(folder: Path, architecture: str) -> str:
    if (folder / "modules.json").is_file():  # sentence-transformers' own layout
        return "embedding"
    if architecture.endswith(_LLM_SUFFIXES):
        return "llm"
    if architecture.endswith("ForSequenceClassification"):
        return "other"
    return "embedding" if architecture.endswith("Model") else ""


def _context_length(folder: Path, config: dict[str, Any]) -> int:
    sentences = _json(folder / "sentence_bert_config.json") or {}
    return _number(sentences, "max_seq_length") or _number(config, "max_position_embeddings")


def _has_chat_template(folder: Path) -> bool:
    if (folder / "chat_template.jinja").is_file() or (folder / "chat_template.json").is_file():
        return True
    return "chat_template" in (_json(folder / "tokenizer_config.json") or {})


def _quantization(config: dict[str, Any]) -> str:
    quantization = config.get("quantization_config")
    if isinstance(quantization, dict):
        return str(quantization.get("quant_method", ""))
    return str(config.get("torch_dtype") or config.get("dtype") or "")


def _number(values: dict[str, Any], key: str) -> int:
    value = values.get(key)
    return value if isinstance(value, int) and not isinstance(value, bool) else 0
