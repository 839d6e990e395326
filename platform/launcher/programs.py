"""Which processes make up Berth on one machine, and how each is started and stopped. Pure: data in, data out."""

from __future__ import annotations

import json
import shlex
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Program:
    """One process that the engine keeps running.

    started_s   up this long counts as started; ending sooner means a growing pause before the next try
    stop_s      seconds between the stop signal and SIGKILL
    last        stopped after all others have ended (Redis: the others still need it while they stop)
    quiet       its log goes to its file only, not to the terminal
    once        runs to its end and is not started again (the demo)
    """

    name: str
    command: tuple[str, ...]
    started_s: int = 4
    stop_s: int = 5
    last: bool = False
    quiet: bool = False
    once: bool = False


@dataclass(frozen=True, slots=True)
class Plan:
    """All that the front needs to know; written as JSON by `manage.py up`, which then becomes the front.

    home, run_dir, root   state, sockets, source
    env                   added to every process's environment
    probes                [name, address] of what must answer before Berth is called ready: an http(s) URL or host:port
    lock_fd               the open, locked file that says this home is in use
    runtime, owner        where replicas run, and this installation's name there
    retries, pause_s      quick ends in a row before a longer pause, and that pause
    began                 time.time() of the command's start
    """

    root: str
    home: str
    run_dir: str
    programs: tuple[Program, ...]
    env: dict[str, str] = field(default_factory=dict)
    probes: tuple[tuple[str, str], ...] = ()
    console_url: str = ""
    gateway_url: str = ""
    runtime: str = ""
    owner: str = ""
    lock_fd: int = -1
    began: float = 0.0
    show_logs: bool = True
    stop_after_demo: bool = False
    retries: int = 8
    pause_s: float = 30.0

    def save(self, path: Path) -> None:
        """Write the plan where the front reads it."""
        path.write_text(json.dumps(asdict(self)))

    @classmethod
    def load(cls, path: Path) -> Plan:
        """Read what `save` wrote."""
        raw = json.loads(path.read_text())
        programs = tuple(Program(**{**one, "command": tuple(one["command"])}) for one in raw.pop("programs"))
        probes = tuple((name, address) for name, address in raw.pop("probes"))
        return cls(programs=programs, probes=probes, **raw)


@dataclass(frozen=True, slots=True)
class Facts:
    """What the programs' command lines depend on.

    redis_server   path of the server to start, "" when REDIS_URL names one that runs elsewhere
    activator      where it listens, "unix:/path" or "host:port"; "": there is none
    behind_proxy   the gateway's clients come by a proxy of the operator's
    gateway_hsts_s for so long browsers shall use nothing but TLS there; 0: nothing is said
    """

    python: str
    manage: str
    run_dir: str
    home: str
    bind: str
    port: int
    gateway_port: int
    redis_server: str
    public_url: str
    tls_cert: str = ""
    tls_key: str = ""
    gateway_token_file: str = ""
    activator: str = ""
    hold_timeout_s: float = 300.0
    behind_proxy: bool = False
    gateway_hsts_s: int = 0


def loopback(bind: str) -> str:
    """The address under which this machine reaches what is bound to `bind`."""
    anywhere = {"0.0.0.0": "127.0.0.1", "::": "[::1]"}  # noqa: S104
    return anywhere.get(bind, f"[{bind}]" if ":" in bind else bind)


def programs(facts: Facts) -> tuple[Program, ...]:
    """Every process, in the order in which they are started."""
    redis = (_redis(facts),) if facts.redis_server else ()
    return (
        *redis,
        _web(facts),
        _worker(facts, "worker", "control", threads=8),
        _worker(facts, "transfers", "transfers", threads=3),
        _beat(facts),
        Program("watcher", (facts.python, facts.manage, "watch")),
        *((_activator(facts),) if facts.activator else ()),
        _gateway(facts),
    )


def _redis(facts: Facts) -> Program:
    # Nothing in Redis is a truth: tasks are hints that the sweep repeats, so nothing is kept across a restart.
    return Program(
        "redis",
        (
            *(facts.redis_server, "--port", "0", "--unixsocket", f"{facts.run_dir}/redis.sock"),
            *("--unixsocketperm", "700", "--dir", facts.run_dir, "--save", "", "--appendonly", "no"),
            *("--maxmemory-policy", "noeviction", "--loglevel", "warning"),
        ),
        started_s=1,
        stop_s=2,
        last=True,
        quiet=True,
    )


def _web(facts: Facts) -> Program:
    tls = ("--ssl-certfile", facts.tls_cert, "--ssl-keyfile", facts.tls_key) if facts.tls_cert else ()
    return Program(
        "web",
        (
            *(facts.python, "-m", "uvicorn", "config.asgi:application", "--host", facts.bind),
            *("--port", str(facts.port), "--lifespan", "off", "--no-server-header", "--no-proxy-headers"),
            *("--http", "config.web_limits:LimitedProtocol"),
            *("--no-access-log", "--log-level", "warning", "--ws-max-size", str(2**20)),
            # Agents ask twice a second on a kept connection: keep it longer than any pause between two asks.
            *("--timeout-keep-alive", "75", "--timeout-graceful-shutdown", "2", *tls),
        ),
    )


def _worker(facts: Facts, name: str, queue: str, threads: int) -> Program:
    # Transfers have a process of their own: a dozen long downloads must not keep a reconcile waiting.
    return Program(
        name,
        (
            *(
                facts.python,
                "-m",
                "celery",
                "--quiet",
                "--app",
                "config",
                "worker",
                "--hostname",
                f"{name}@berth",
            ),
            *("--pool", "threads", "--concurrency", str(threads), "--queues", queue),
            *("--without-gossip", "--without-mingle", "--without-heartbeat"),
        ),
    )


def _beat(facts: Facts) -> Program:
    # The schedule in memory: a persistent one would only be a file that kill -9 can break.
    return Program(
        "beat",
        (
            *(facts.python, "-m", "celery", "--quiet", "--app", "config.beat", "beat", "--pidfile", ""),
            *("--scheduler", "celery.beat:Scheduler"),
        ),
        quiet=True,
    )


def _control(facts: Facts) -> str:
    # A certificate names the public host, not loopback.
    return facts.public_url if facts.tls_cert else f"http://{loopback(facts.bind)}:{facts.port}"


def _activator(facts: Facts) -> Program:
    return Program(
        "activator",
        (
            *(facts.python, "-m", "activator", "--id", "local", "--listen", facts.activator),
            *("--control", _control(facts), "--token-file", facts.gateway_token_file),
            *("--hold-timeout", str(facts.hold_timeout_s)),
        ),
        started_s=1,
    )


def _gateway(facts: Facts) -> Program:
    tls = ("--tls-cert", facts.tls_cert, "--tls-key", facts.tls_key) if facts.tls_cert else ()
    return Program(
        "gateway",
        (
            *(facts.python, "-m", "gateway.agent", "--id", "local", "--home", f"{facts.home}/gateway"),
            *("--control", _control(facts), "--token-file", facts.gateway_token_file),
            *("--listen", f"{facts.bind}:{facts.gateway_port}", "--drain", "2", *tls),
            *(("--behind-proxy",) if facts.behind_proxy else ()),
            *(("--hsts", str(facts.gateway_hsts_s)) if facts.gateway_hsts_s else ()),
        ),
        stop_s=7,
    )


def engine_conf(plan: Plan) -> str:
    """The configuration of supervisor's engine (its own format). `supervisorctl -c` works with it, too."""
    run, log = Path(plan.run_dir), Path(plan.home) / "log"
    socket = run / "supervisor.sock"
    lines = [
        *("[unix_http_server]", f"file={_escape(str(socket))}", "chmod=0600", ""),
        *(
            "[rpcinterface:supervisor]",
            "supervisor.rpcinterface_factory = supervisor.rpcinterface:make_main_rpcinterface",
        ),
        *("", "[supervisorctl]", f"serverurl=unix://{_escape(str(socket))}", ""),
        *("[supervisord]", "nodaemon=true", "silent=true", "identifier=berth", "nocleanup=true"),
        *(f"logfile={_escape(str(log / 'supervisor.log'))}", "logfile_maxbytes=1MB", "logfile_backups=1"),
        *(
            f"pidfile={_escape(str(run / 'supervisor.pid'))}",
            f"directory={_escape(plan.root)}",
            "minfds=256",
            "",
        ),
    ]
    for program in plan.programs:
        lines += _program_section(program, log, plan.retries)
    # One group stops together; "last" ones are a group of their own that stops after it.
    for group, priority, last in (("first", 1, True), ("berth", 2, False)):
        names = [program.name for program in plan.programs if program.last is last]
        if names:
            lines += [f"[group:{group}]", f"programs={','.join(names)}", f"priority={priority}", ""]
    return "\n".join(lines)


def _program_section(program: Program, log: Path, retries: int) -> list[str]:
    # What the demo prints holds the credentials that are shown once: it goes to the terminal and into no file.
    # The path is read twice by its parser, unlike all others.
    kept = "NONE" if program.once else _escape(_escape(str(log / f"{program.name}.log")))
    return [
        f"[program:{program.name}]",
        f"command={_escape(shlex.join(program.command))}",
        f"startsecs={0 if program.once else program.started_s}",
        f"autorestart={'false' if program.once else 'true'}",
        f"startretries={retries}",
        # Never the whole process group: a worker's and an agent's children end with it or outlive it on purpose.
        *("stopasgroup=false", "killasgroup=false", "stopsignal=TERM", f"stopwaitsecs={program.stop_s}"),
        *("redirect_stderr=true", "stdout_events_enabled=true"),
        f"stdout_logfile={kept}",
        *("stdout_logfile_maxbytes=5MB", "stdout_logfile_backups=3", ""),
    ]


def _escape(text: str) -> str:
    # Its parser expands %(…)s.
    return text.replace("%", "%%")
