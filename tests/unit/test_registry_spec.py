"""The exact container of every framework. Each flag's documentation is cited beside it in the framework's file."""

from __future__ import annotations

import pytest

from registry import images
from registry.frameworks import FrameworkDefinition, parse, read_folder
from registry.frameworks.loading import SHIPPED
from registry.spec import InstanceSize, ModelFacts, build, health_path_of, image_of, served_name
from runtimes.contract import ContainerSpec, Mount

DEFINITIONS = {slug: parse(data) for slug, data in read_folder(SHIPPED).items()}
GIB = 1024**3
LABELS = {"berth.endpoint": "me-1"}


def built(
    slug: str,
    model: ModelFacts,
    settings: dict[str, object] | None = None,
    instance: InstanceSize | None = None,
) -> ContainerSpec:
    return build(
        DEFINITIONS[slug],
        model,
        settings or {},
        name="r1",
        labels=LABELS,
        instance=instance or InstanceSize(vcpu=2, memory_gib=4),
        network="prj-1",
    )


@pytest.fixture(autouse=True)
def _fixed_tag(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "llama_cpp_image", lambda: "berth/llama-cpp:test")


def test_llama_cpp() -> None:
    model = ModelFacts(
        "all-MiniLM-L6-v2", "embedding", "/var/weights/1", "minilm.gguf", known={"context_length": 512}
    )
    assert built("llama-cpp", model) == ContainerSpec(
        name="r1",
        labels=LABELS,
        image="berth/llama-cpp:test",
        program="llama-cpp",
        command=(
            *("--model", "/models/minilm.gguf"),
            *("--port", "{{port}}"),
            *("--host", "{{host}}"),
            *("--alias", "all-MiniLM-L6-v2"),
            *("--ctx-size", "512"),  # the default 4096, lowered to what the model can
            *("--parallel", "4"),
            *("--embeddings", "on"),
        ),
        port=8080,
        cpus=2,
        memory_bytes=4 * GIB,
        mounts=(Mount("/var/weights/1", "/models", read_only=True),),
        network="prj-1",
        read_only_root=True,
        tmpfs={"/tmp": 64 * 1024**2},
        user=None,  # the image's own
        stop_grace_s=10,
    )


def test_llama_cpp_chat_model_with_settings() -> None:
    model = ModelFacts("tiny", "llm", "/w", "a.gguf", known={"context_length": 2048})
    spec = built("llama-cpp", model, {"max_context": 1024, "max_sequences": 1, "served_model_name": "gpt"})
    assert spec.command is not None
    assert spec.command[6:] == ("--alias", "gpt", "--ctx-size", "1024", "--parallel", "1")


def test_vllm_on_two_gpus() -> None:
    model = ModelFacts("Qwen/Qwen2.5-7B-Instruct", "llm", "/var/weights/2")
    instance = InstanceSize(vcpu=16, memory_gib=64, gpu="rtx4090", gpu_count=2, gpu_ids=("GPU-a", "GPU-b"))
    settings = {"tool_call_parser": "hermes", "max_context": 8192, "gpu_memory_percent": 85}
    assert built("vllm", model, settings, instance) == ContainerSpec(
        name="r1",
        labels=LABELS,
        image="vllm/vllm-openai:v0.12.0",
        entrypoint=("vllm", "serve"),
        command=(
            *("/models", "--host", "{{host}}", "--port", "{{port}}", "--enable-force-include-usage"),
            *("--served-model-name", "Qwen/Qwen2.5-7B-Instruct"),
            *("--tensor-parallel-size", "2"),
            *("--max-num-seqs", "256"),  # the issue's default
            *("--max-model-len", "8192"),
            *("--enable-auto-tool-choice", "--tool-call-parser", "hermes"),
            *("--gpu-memory-utilization", "0.85"),
        ),
        env={"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "VLLM_NO_USAGE_STATS": "1"},
        port=8000,
        cpus=16,
        memory_bytes=64 * GIB,
        shm_bytes=8 * GIB,
        gpu_ids=("GPU-a", "GPU-b"),
        mounts=(Mount("/var/weights/2", "/models", read_only=True),),
        network="prj-1",
        read_only_root=False,
        stop_grace_s=30,
    )


def test_vllm_embeddings_on_one_gpu() -> None:
    instance = InstanceSize(4, 16, "rtx2080ti", 1, ("GPU-a",))
    spec = built("vllm", ModelFacts("e5", "embedding", "/w"), {}, instance)
    assert spec.gpu_ids == ("GPU-a",)
    assert spec.command == (
        *(
            "/models",
            "--host",
            "{{host}}",
            "--port",
            "{{port}}",
            "--enable-force-include-usage",
            "--served-model-name",
            "e5",
        ),
        *("--runner", "pooling", "--tensor-parallel-size", "1", "--max-num-seqs", "256"),
    )


def test_a_replica_that_was_not_given_its_gpus_is_not_made() -> None:
    for gpu_ids in ((), ("GPU-a",)):
        with pytest.raises(ValueError, match="needs 2 GPUs"):
            built("vllm", ModelFacts("m", "llm", "/w"), {}, InstanceSize(4, 16, "a40", 2, gpu_ids))


def test_text_embeddings_inference() -> None:
    model = ModelFacts("bge-m3", "embedding", "/w")
    spec = built("text-embeddings-inference", model, {"pooling": "cls"})
    assert spec == ContainerSpec(
        name="r1",
        labels=LABELS,
        image="ghcr.io/huggingface/text-embeddings-inference:cpu-1.9",
        command=(
            *(
                "--model-id",
                "/models",
                "--hostname",
                "{{host}}",
                "--port",
                "{{port}}",
                "--prometheus-port",
                "9000",
            ),
            *("--served-model-name", "bge-m3"),
            *("--max-concurrent-requests", "512"),
            *("--max-batch-tokens", "16384"),
            *("--max-client-batch-size", "32"),
            *("--pooling", "cls"),
        ),
        env={"HF_HUB_OFFLINE": "1"},
        port=8080,
        cpus=2,
        memory_bytes=4 * GIB,
        mounts=(Mount("/w", "/models", read_only=True),),
        network="prj-1",
        read_only_root=True,
        tmpfs={"/tmp": 256 * 1024**2, "/data": 16 * 1024**2},
        stop_grace_s=10,
    )


@pytest.mark.parametrize(
    ("gpu", "count", "tag"),
    [
        ("", 0, "cpu-1.9"),
        ("rtx2080ti", 1, "turing-1.9"),
        ("a40", 1, "86-1.9"),
        ("rtx4090", 1, "89-1.9"),
        ("h200", 1, "1.9"),
    ],
)
def test_the_image_follows_the_gpu(gpu: str, count: int, tag: str) -> None:
    definition = DEFINITIONS["text-embeddings-inference"]
    image = image_of(definition, ModelFacts("m", "embedding"), gpu=gpu, gpu_count=count)
    assert image == f"ghcr.io/huggingface/text-embeddings-inference:{tag}"


def test_triton() -> None:
    spec = built("triton", ModelFacts("vision", "other", "/w"))
    assert spec == ContainerSpec(
        name="r1",
        labels=LABELS,
        image="nvcr.io/nvidia/tritonserver:25.08-py3",
        command=(
            "tritonserver",
            "--model-repository=/models",
            "--http-address={{host}}",
            "--http-port={{port}}",
            "--metrics-address={{host}}",
            "--metrics-port=8002",
            "--allow-grpc=false",
            "--model-load-thread-count=4",
        ),
        port=8000,
        cpus=2,
        memory_bytes=4 * GIB,
        shm_bytes=GIB,
        mounts=(Mount("/w", "/models", read_only=True),),
        network="prj-1",
        read_only_root=False,
        stop_grace_s=30,
    )
    assert health_path_of(DEFINITIONS["triton"], ModelFacts("vision", "other")) == "/v2/health/ready"


def test_custom_container() -> None:
    model = ModelFacts(
        "mine",
        "llm",
        image="registry.example/team/server:1",
        port=9001,
        health_path="/ready",
        command=("--flag", "two words"),
        environment={"TOKEN": "s3cret"},
    )
    assert built("custom", model) == ContainerSpec(
        name="r1",
        labels=LABELS,
        image="registry.example/team/server:1",
        command=("--flag", "two words"),
        env={"TOKEN": "s3cret"},
        port=9001,
        cpus=2,
        memory_bytes=4 * GIB,
        shm_bytes=GIB,
        network="prj-1",
        read_only_root=False,
        stop_grace_s=30,
    )
    assert health_path_of(DEFINITIONS["custom"], model) == "/ready"
    assert built("custom", ModelFacts("m", "llm", image="a")).command is None


def test_a_custom_containers_own_model_files_are_mounted_read_only() -> None:
    spec = built("custom", ModelFacts("m", "llm", "/w/3", image="a"))
    assert spec.mounts == (Mount("/w/3", "/models", read_only=True),)


def test_an_instance_without_limits_sets_none() -> None:
    spec = built("llama-cpp", ModelFacts("m", "llm", "/w", "a.gguf"), {}, InstanceSize())
    assert (spec.cpus, spec.memory_bytes, spec.gpu_ids) == (0, 0, ())


def test_no_value_can_become_another_argument_or_a_placeholder() -> None:
    definition: FrameworkDefinition = DEFINITIONS["llama-cpp"]
    spec = built("llama-cpp", ModelFacts("{port}", "llm", "/w", "{weights}.gguf"))
    assert spec.command is not None
    assert "/models/{weights}.gguf" in spec.command  # replaced once, never again
    assert served_name(definition, ModelFacts("{port}", "llm"), {}) == "{port}"
    assert len(spec.command) == 12
