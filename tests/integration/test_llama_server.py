"""platform/images/llama-cpp/serve.py as a process, and as the container that runtimes/images.py makes of it."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest

from runtimes.contract import ContainerSpec, Mount
from runtimes.images import LLAMA_CPP_SERVER
from tests.contract.drivers import DockerDriver, exited, wait_for
from tests.support_models import CONTEXT, tiny_llama

CHAT = {"messages": [{"role": "user", "content": "hello"}], "max_tokens": 8, "temperature": 0}


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_llama(tmp_path_factory.mktemp("model"))


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def serving(model: Path, *arguments: str) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """Base URL of a healthy server, and its process."""
    port = free_port()
    command = [
        sys.executable,
        "-I",
        str(LLAMA_CPP_SERVER),
        "--model",
        str(model),
        "--port",
        str(port),
        *arguments,
    ]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    try:
        wait_for(lambda: is_healthy(url), "the server")
        yield url, process
    finally:
        process.kill()
        process.wait()


def is_healthy(url: str) -> bool:
    try:
        return httpx.get(f"{url}/health", timeout=2).status_code == 200
    except httpx.TransportError:
        return False


def events(url: str, request: dict[str, object]) -> list[str]:
    with httpx.stream(
        "POST", f"{url}/v1/chat/completions", json=request | {"stream": True}, timeout=30
    ) as answer:
        assert answer.headers["content-type"].startswith("text/event-stream")
        return [line.removeprefix("data: ") for line in answer.iter_lines() if line.startswith("data: ")]


def test_it_answers_openais_routes(model: Path) -> None:
    with serving(model, "--alias", "tiny", "--ctx-size", "256", "--parallel", "2", "--threads", "1") as (
        url,
        _,
    ):
        models = httpx.get(f"{url}/v1/models").json()["data"]
        assert [item["id"] for item in models] == ["tiny"]
        assert models[0]["meta"]["n_ctx"] == 256  # tokens of one request, not of both slots together
        answer = httpx.post(f"{url}/v1/chat/completions", json=CHAT, timeout=30).json()
        assert answer["choices"][0]["message"]["role"] == "assistant"
        assert answer["usage"]["completion_tokens"] == 8
        parts = events(url, CHAT)
        assert parts[-1] == "[DONE]"
        assert len(parts) > 8
        assert json.loads(parts[-2])["choices"][0]["finish_reason"] == "length"
        assert "llamacpp:tokens_predicted_total 16" in httpx.get(f"{url}/metrics").text


def test_a_folder_and_the_models_own_context(model: Path) -> None:
    with serving(model.parent) as (url, _):
        facts = httpx.get(f"{url}/v1/models").json()["data"][0]
        assert facts["id"] == "tiny-llama"
        assert facts["meta"]["n_ctx"] == CONTEXT


def test_it_makes_embeddings_of_length_one(model: Path) -> None:
    with serving(model, "--embeddings", "on", "--ctx-size", "128") as (url, _):
        request = {"model": "tiny", "input": ["hello", "the model"]}
        data = httpx.post(f"{url}/v1/embeddings", json=request, timeout=30).json()["data"]
        for item in data:
            assert sum(value**2 for value in item["embedding"]) == pytest.approx(1, abs=1e-4)


def test_sigterm_ends_it_at_once_even_in_the_middle_of_an_answer(model: Path) -> None:
    with serving(model) as (url, process), httpx.Client(timeout=30) as client:
        request = CHAT | {"max_tokens": 1500, "stream": True, "ignore_eos": True}
        with client.stream("POST", f"{url}/v1/chat/completions", json=request) as answer:
            next(answer.iter_lines())
            began = time.monotonic()
            process.terminate()
            assert process.wait(5) == 0
            assert time.monotonic() - began < 2


def test_sigterm_ends_it_while_it_holds_the_interpreter(tmp_path: Path) -> None:
    """Loading is one long call into C. Reading a model from a pipe that says nothing is as long as one gets."""
    script = tmp_path / "held.py"
    script.write_text(
        "import ctypes, importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('serve', {str(LLAMA_CPP_SERVER)!r})\n"
        "serve = importlib.util.module_from_spec(spec)\n"
        "sys.modules['serve'] = serve\n"
        "spec.loader.exec_module(serve)\n"
        "serve._die_on_sigterm_even_inside_c()\n"
        "print('held', flush=True)\n"
        "while True: ctypes.PyDLL(None).sleep(60)\n"  # PyDLL keeps the interpreter's lock
    )
    with subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE) as process:
        assert process.stdout
        assert process.stdout.readline() == b"held\n"
        process.terminate()
        assert process.wait(5) == 15


def failure(*arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, "-I", str(LLAMA_CPP_SERVER), *arguments], capture_output=True, text=True, timeout=30
    )
    return done.returncode, done.stderr


def test_what_is_wrong_is_said_in_one_line(model: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.gguf"
    text.write_text("these are no weights")
    empty, cut = tmp_path / "empty", tmp_path / "cut.gguf"
    empty.mkdir()
    cut.write_bytes(model.read_bytes()[:40])
    port = str(free_port())
    for path, words in (
        (tmp_path / "none.gguf", "does not exist"),
        (text, "is no GGUF file: it starts with b'thes'"),
        (empty, "holds 0 GGUF models"),
        (cut, "cannot be read as GGUF"),
    ):
        code, said = failure("--model", str(path), "--port", port)
        assert code == 2
        assert said.startswith("berth-llama-cpp: ")
        assert words in said
        assert said.count("\n") == 1


def test_a_model_that_llama_cpp_refuses(model: Path, tmp_path: Path) -> None:
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(model.read_bytes()[:-1000])
    code, said = failure("--model", str(cut), "--port", str(free_port()))
    assert code == 4
    assert "berth-llama-cpp: llama.cpp could not load" in said


def test_a_port_that_is_taken(model: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        code, said = failure("--model", str(model), "--port", str(server.getsockname()[1]))
    assert code == 3
    assert "Address already in use" in said


# ---- in its container


@pytest.fixture
def driver(tmp_path: Path) -> Iterator[DockerDriver]:
    driver = DockerDriver(tmp_path)
    yield driver
    driver.close()


def container(driver: DockerDriver, *arguments: str, mount: Path) -> ContainerSpec:
    return ContainerSpec(
        name=f"{driver.owner}-llama",
        image=driver.image,
        port=8080,
        command=("--port", "{{port}}", "--host", "{{host}}", *arguments),
        mounts=(Mount(str(mount), "/models"),),
        network=driver.network,
        cpus=1,
        memory_bytes=512 * 1024**2,
        tmpfs={"/tmp": 16 * 1024**2},
    )


@pytest.mark.engine
def test_the_image_serves_with_every_restriction(driver: DockerDriver, model: Path) -> None:
    spec = container(driver, "--model", "/models/tiny-llama.gguf", mount=model.parent)
    address = driver.runtime.start(spec).address
    assert address is not None
    url = f"http://{address.host}:{address.port}"
    wait_for(lambda: is_healthy(url), f"the server; it says: {driver.runtime.logs(spec.name)}")
    assert events(url, CHAT)[-1] == "[DONE]"
    assert "n_threads = 1" in driver.runtime.logs(spec.name)  # its CPU limit, not the machine's cores
    began = time.monotonic()
    driver.runtime.stop(spec.name)
    assert time.monotonic() - began < 5
    seen = driver.runtime.observe(spec.name)
    assert seen is not None
    assert (seen.exit_code, seen.oom_killed) == (0, False)


@pytest.mark.engine
def test_the_container_says_what_is_wrong(driver: DockerDriver, model: Path) -> None:
    spec = container(driver, "--model", "/models/other.gguf", mount=model.parent)
    driver.runtime.start(spec)
    assert exited(driver.runtime, spec.name).exit_code == 2
    assert driver.runtime.logs(spec.name) == (
        "berth-llama-cpp: model file /models/other.gguf does not exist\n"
    )
