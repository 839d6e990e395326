"""Which tag an image of ours has. Images of others carry theirs in the framework's definition."""

from __future__ import annotations

from runtimes.images import LLAMA_CPP_REPOSITORY, llama_cpp_image


def resolve(image: str) -> str:
    """`image` with its tag: one of ours without a tag is the one that this version of the platform builds."""
    return llama_cpp_image() if image == LLAMA_CPP_REPOSITORY else image
