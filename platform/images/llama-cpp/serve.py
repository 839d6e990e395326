"""llama.cpp as an OpenAI-compatible server on one GGUF file.

Answers /health, /metrics, /v1/models, /v1/chat/completions (streaming too), /v1/completions and, for embedding
models, /v1/embeddings. SIGTERM ends it at once, while it loads a model too. It is the same file in our container
image and in the process runtime, so it uses nothing but the standard library and `xllamacpp`.

Exit codes: 0 asked to stop · 2 bad arguments or no usable model file · 3 the port is taken · 4 llama.cpp refused
the model (its own words stand above ours in the log) · 15 asked to stop while loading.
"""

from __future__ import annotations

import argparse
import ctypes
import math
import os
import signal
import socket
import struct
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NoReturn

BAD_MODEL, PORT_TAKEN, REFUSED = 2, 3, 4
DEFAULT_CONTEXT = 4096  # tokens a request may use when neither the caller nor a shorter model says otherwise

# GGUF value types: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9


@dataclass(frozen=True)
class Gguf:
    """What the server must know of a model before it loads it. `context` is in tokens, 0 when the file is silent."""

    architecture: str
    context: int
    pools: bool  # it names a pooling of its token vectors: an embedding model


def main(argv: list[str] | None = None) -> int:
    args = _arguments(argv)
    _die_on_sigterm_even_inside_c()
    model = _model_file(Path(args.model))
    gguf = _read_gguf(model)
    _check_port(args.host, args.port)
    params = _params(args, model, gguf)

    import xllamacpp  # 100 MB of native code: only when the arguments were right

    try:
        server = xllamacpp.Server(params)
    except RuntimeError:
        _fail(REFUSED, f"llama.cpp could not load {model}; its reason stands in the lines above")
    print(f"serving {model.name} on {args.host}:{args.port}", flush=True)
    _wait_for_sigterm()
    del server  # kept alive until here
    return 0


def _arguments(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="berth-llama-cpp", description=__doc__.splitlines()[0])
    parser.add_argument(
        "--model", required=True, help="a GGUF file, or a folder that holds exactly one model"
    )
    parser.add_argument(
        "--alias", default="", help="the model's name in /v1/models (default: the file's name)"
    )
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8080)
    parser.add_argument(
        "--ctx-size",
        type=int,
        default=0,
        help=f"tokens that one request may use; 0: the model's own limit, at most {DEFAULT_CONTEXT}",
    )
    parser.add_argument("--parallel", type=int, default=4, help="requests answered at once; more wait")
    parser.add_argument("--threads", type=int, default=0, help="0: as many as the CPU limit allows")
    parser.add_argument("--gpu-layers", type=int, default=-1, help="layers on the GPU; -1: as many as fit")
    parser.add_argument(
        "--cache-ram-mib", type=int, default=0, help="memory for prompts kept between requests"
    )
    parser.add_argument("--embeddings", choices=("auto", "on", "off"), default="auto", nargs="?", const="on")
    parser.add_argument("--pooling", choices=("model", "mean", "cls", "last", "rank"), default="model")
    parser.add_argument("--chat-template", default="", help="a Jinja template that replaces the model's own")
    args = parser.parse_args(argv)
    if not 0 < args.port < 65536:
        parser.error(f"--port {args.port} is no TCP port")
    if args.parallel < 1 or args.ctx_size < 0:
        parser.error("--parallel must be at least 1 and --ctx-size not negative")
    return args


def _params(args: argparse.Namespace, model: Path, gguf: Gguf) -> object:
    """llama.cpp's own parameter object."""
    import xllamacpp

    context = args.ctx_size or min(gguf.context or DEFAULT_CONTEXT, DEFAULT_CONTEXT)
    params = xllamacpp.CommonParams()
    params.model.path = str(model)
    params.model_alias = {args.alias or model.stem}
    params.hostnames, params.port = [args.host], args.port
    params.n_parallel = args.parallel
    params.n_ctx = context * args.parallel  # llama.cpp divides one buffer among its slots
    params.cpuparams.n_threads = args.threads or _cpus()
    params.n_gpu_layers = args.gpu_layers
    params.cache_ram_mib = args.cache_ram_mib  # its default of 8 GiB would break through a container's limit
    params.endpoint_metrics = True
    params.ui = False
    params.offline = True
    params.chat_template = args.chat_template
    if args.embeddings == "on" or (args.embeddings == "auto" and gguf.pools):
        params.embedding = True
        # Attention in these models is not causal: a whole input must fit in one batch.
        params.n_batch = params.n_ubatch = context
        if args.pooling != "model" or not gguf.pools:
            name = "mean" if args.pooling == "model" else args.pooling
            params.pooling_type = getattr(xllamacpp.llama_pooling_type, f"LLAMA_POOLING_TYPE_{name.upper()}")
    return params


def _model_file(path: Path) -> Path:
    if path.is_dir():
        # A model in several files is loaded through its first one.
        models = [p for p in sorted(path.glob("*.gguf")) if "-of-" not in p.stem or "-00001-of-" in p.stem]
        if len(models) != 1:
            _fail(BAD_MODEL, f"{path} holds {len(models)} GGUF models; name one of them with --model")
        return models[0]
    if not path.exists():
        _fail(BAD_MODEL, f"model file {path} does not exist")
    return path


def _read_gguf(path: Path) -> Gguf:
    try:
        with path.open("rb") as file:
            magic = file.read(4)
            if magic != b"GGUF":
                _fail(BAD_MODEL, f"{path} is no GGUF file: it starts with {magic!r} instead of b'GGUF'")
            return _gguf_header(file)
    except (OSError, struct.error, UnicodeDecodeError) as error:
        _fail(BAD_MODEL, f"{path} cannot be read as GGUF: {error}")


def _gguf_header(file: BinaryIO) -> Gguf:
    """Keys of the model's own section; they stand before the tokenizer's, which are long."""
    _version, _tensors, count = _unpack(file, "<IQQ")
    values: dict[str, object] = {}
    for _ in range(count):
        key = _string(file).decode()
        if key.startswith("tokenizer."):
            break
        values[key] = _value(file, _unpack(file, "<I")[0])
    architecture = str(values.get("general.architecture", ""))
    context = values.get(f"{architecture}.context_length", 0)
    return Gguf(
        architecture, context if isinstance(context, int) else 0, f"{architecture}.pooling_type" in values
    )


def _value(file: BinaryIO, kind: int) -> object:
    if kind == _STRING:
        return _string(file).decode(errors="replace")
    if kind == _ARRAY:
        item, length = _unpack(file, "<IQ")
        return [_value(file, item) for _ in range(length)]
    if kind not in _SCALARS:
        raise struct.error(f"unknown value type {kind}")
    return _unpack(file, "<" + _SCALARS[kind])[0]


def _string(file: BinaryIO) -> bytes:
    (length,) = _unpack(file, "<Q")
    if length > 1 << 24:
        raise struct.error(f"a text of {length} bytes in the header")
    return file.read(length)


def _unpack(file: BinaryIO, layout: str) -> tuple[int, ...]:
    return struct.unpack(layout, file.read(struct.calcsize(layout)))


def _check_port(host: str, port: int) -> None:
    """llama.cpp says only that it failed; say why."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            _fail(PORT_TAKEN, f"cannot listen on {host}:{port}: {error.strerror}")


def _cpus() -> int:
    """Cores this process may use. llama.cpp counts the machine's and would fight its own CPU quota."""
    limits = [
        float(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
    ]
    if os.environ.get("BERTH_CPUS"):  # the process runtime, which has no cgroup
        limits.append(float(os.environ["BERTH_CPUS"]))
    quota = _cgroup_quota()
    if quota:
        limits.append(quota)
    return max(1, math.ceil(min(limits)))


def _cgroup_quota() -> float:
    """Cores by cgroup v2 or v1, 0 when there is no limit."""
    for files in (
        ("/sys/fs/cgroup/cpu.max",),
        ("/sys/fs/cgroup/cpu/cpu.cfs_quota_us", "/sys/fs/cgroup/cpu/cpu.cfs_period_us"),
    ):
        try:
            quota, period = " ".join(Path(name).read_text().strip() for name in files).split()
        except (OSError, ValueError):
            continue
        if quota not in ("max", "-1"):
            return int(quota) / int(period)
    return 0.0


def _die_on_sigterm_even_inside_c() -> None:
    """Loading a model holds the interpreter, so a Python handler would wait for it: register libc's `_exit`.

    As a container's first process the default action would not run at all.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes = [ctypes.c_int, ctypes.c_void_p]
    libc.signal(signal.SIGTERM, ctypes.cast(libc._exit, ctypes.c_void_p))


def _wait_for_sigterm() -> None:
    """Readable pipe instead of `signal.pause`: the kernel may deliver the signal to a thread of llama.cpp."""
    read, write = os.pipe()
    os.set_blocking(write, False)
    signal.set_wakeup_fd(write)
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    os.read(read, 1)
    os._exit(0)  # its destructors wait for requests that nobody reads any more


def _fail(code: int, message: str) -> NoReturn:
    print(f"berth-llama-cpp: {message}", file=sys.stderr, flush=True)
    sys.exit(code)


if __name__ == "__main__":
    sys.exit(main())
