"""The sentences of the shipped framework files, marked for translation: makemessages reads no TOML.

A test keeps this list and the files equal.
"""

from __future__ import annotations

from django.utils.translation import gettext_noop as _

FRAMEWORK_WORDS: tuple[str, ...] = (
    _("Any image that answers HTTP on one port."),
    _("Port"),
    _("The port that the server listens on inside its container. Left empty: what the model says."),
    _("Health path"),
    _("Begins with / and answers 2xx once the model can be called. Left empty: what the model says."),
    _("Runs GGUF models on any machine, with or without a container."),
    _("Served model name"),
    _("The name that clients send as “model”. Left empty: the model's name in the registry."),
    _("Max context length"),
    _("Tokens that one request may use, prompt and answer together. More needs more memory."),
    _("Max sequences"),
    _("Requests answered at the same time; further ones wait. Each takes memory for its context."),
    _("Pooling"),
    _("For embeddings: how token vectors become one. Left empty: what the model says."),
    _("Embedding models from Hugging Face folders, on CPU or GPU."),
    _("Max concurrent requests"),
    _("Further requests are refused at once instead of waiting."),
    _("Max batch tokens"),
    _("Tokens computed together. More is faster until memory runs out."),
    _("Max inputs per request"),
    _("Texts that one request may carry."),
    _("A Triton model repository: ONNX, TensorRT, PyTorch, Python and ensembles."),
    _("Model load threads"),
    _("Models of the repository that are loaded at the same time."),
    _("Log detail"),
    _("Left empty or 0: normal. Higher numbers log every request."),
    _("Fast serving of language and embedding models on NVIDIA GPUs."),
    _("Requests computed at the same time; further ones wait."),
    _(
        "Tokens of prompt and answer together. Left empty: the model's own; lower it if the GPU's memory is too small."
    ),
    _("Tool-call parser"),
    _(
        "Turns the model's tool calls into OpenAI's form. Choose the one made for the model; left empty, tools are off."
    ),
    _("Data type"),
    _("Number format of weights and activations. RTX 20 cards need half."),
    _("GPU memory (%)"),
    _("Part of the GPU's memory that vLLM takes. Left empty: 90."),
)
