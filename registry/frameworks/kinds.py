"""The closed lists of words that a definition may use."""

from typing import Literal

# gguf: one GGUF file · folder: a Hugging Face folder (safetensors, config.json, tokenizer) ·
# repository: a Triton model repository · image: the image brings its own model
Accepts = Literal["gguf", "folder", "repository", "image"]
DeviceKind = Literal["cpu", "gpu"]
SettingType = Literal["int", "str", "bool", "choice"]
TaskName = Literal["llm", "embedding", "other"]  # registry.models.ModelTask
