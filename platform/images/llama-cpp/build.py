"""Which image of llama.cpp this version of the platform uses, and how to have it. The work is in runtimes/images.py."""

from __future__ import annotations

from runtimes.images import ImageStore, ensure_llama_cpp, llama_cpp_image


def tag() -> str:
    """`name:tag` of the image; the tag covers everything that goes into it, so a changed serve.py has another."""
    return llama_cpp_image()


def ensure_image(engine: ImageStore) -> str:
    """Build the image if the engine lacks it; returns `tag()`."""
    return ensure_llama_cpp(engine)
