"""The processes and the engine's configuration, as data."""

from __future__ import annotations

import configparser
import shlex
from dataclasses import replace
from pathlib import Path

from supervisor.options import ServerOptions

from launcher.programs import Facts, Plan, Program, engine_conf, loopback, programs

FACTS = Facts(
    python="/opt/my python/bin/python",
    manage="/src/manage.py",
    run_dir="/home/100% mine/run",
    home="/home/100% mine",
    bind="127.0.0.1",
    port=8000,
    gateway_port=8080,
    redis_server="/usr/bin/redis-server",
    public_url="https://berth.example.org",
    gateway_token_file="/home/100% mine/keys/gateway.token",
    activator="unix:/home/100% mine/run/activator.sock",
)


def plan(facts: Facts) -> Plan:
    return Plan(root=str(Path.cwd()), home=facts.home, run_dir=facts.run_dir, programs=programs(facts))


def sections(conf: str) -> configparser.RawConfigParser:
    parser = configparser.RawConfigParser()
    parser.read_string(conf)
    return parser


def test_every_process_of_the_architecture_runs() -> None:
    names = [program.name for program in programs(FACTS)]
    assert names == ["redis", "web", "worker", "transfers", "beat", "watcher", "activator", "gateway"]


def test_an_external_redis_is_not_started() -> None:
    assert "redis" not in [program.name for program in programs(replace(FACTS, redis_server=""))]


def test_where_nothing_is_held_no_activator_is_started() -> None:
    assert "activator" not in [program.name for program in programs(replace(FACTS, activator=""))]


def test_redis_stops_last_and_listens_on_no_port() -> None:
    redis = programs(FACTS)[0]
    assert redis.last
    assert redis.command[redis.command.index("--port") + 1] == "0"


def test_transfers_never_share_a_process_with_control_tasks() -> None:
    queues = {
        one.name: one.command[one.command.index("--queues") + 1]
        for one in programs(FACTS)
        if "--queues" in one.command
    }
    assert queues == {"worker": "control", "transfers": "transfers"}


def test_commands_survive_the_engines_parser() -> None:
    conf = sections(engine_conf(plan(FACTS)))
    for program in programs(FACTS):
        command = conf[f"program:{program.name}"]["command"].replace("%%", "%")
        assert tuple(shlex.split(command)) == program.command


def test_logs_of_a_home_with_a_percent_sign_survive_the_engines_parser(tmp_path: Path) -> None:
    (tmp_path / "100% mine" / "log").mkdir(parents=True)
    facts = replace(FACTS, home=str(tmp_path / "100% mine"), run_dir=str(tmp_path / "100% mine"))
    (tmp_path / "conf").write_text(engine_conf(plan(facts)))
    options = ServerOptions()
    options.realize(["-c", str(tmp_path / "conf")])
    logs = {one.stdout_logfile for group in options.process_group_configs for one in group.process_configs}
    assert logs == {f"{facts.home}/log/{program.name}.log" for program in programs(facts)}


def test_no_process_group_is_ever_signalled() -> None:
    # A worker's group holds tasks that must end on their own; replicas and Envoy outlive their parents.
    conf = sections(engine_conf(plan(FACTS)))
    for name in conf.sections():
        if name.startswith("program:"):
            assert conf[name]["stopasgroup"] == conf[name]["killasgroup"] == "false"


def test_stopping_fits_into_ten_seconds() -> None:
    first = max(program.stop_s for program in programs(FACTS) if not program.last)
    last = max(program.stop_s for program in programs(FACTS) if program.last)
    assert first + last < 10


def test_tls_reaches_web_and_gateway_and_the_agent_uses_the_public_name() -> None:
    by_name = {one.name: one.command for one in programs(replace(FACTS, tls_cert="/c.pem", tls_key="/k.pem"))}
    assert by_name["web"][-4:-2] == ("--ssl-certfile", "/c.pem")
    assert by_name["gateway"][-4:-2] == ("--tls-cert", "/c.pem")
    assert "https://berth.example.org" in by_name["gateway"]
    assert "https://berth.example.org" in by_name["activator"]
    assert "http://127.0.0.1:8000" in {one.name: one.command for one in programs(FACTS)}["gateway"]


def test_a_proxy_before_the_gateway_is_told_to_the_agent() -> None:
    for behind in (False, True):
        agent = next(one for one in programs(replace(FACTS, behind_proxy=behind)) if one.name == "gateway")
        assert ("--behind-proxy" in agent.command) is behind


def test_a_gateway_that_browsers_shall_call_by_tls_alone_says_so() -> None:
    for seconds, told in ((0, ()), (31_536_000, ("--hsts", "31536000"))):
        agent = next(one for one in programs(replace(FACTS, gateway_hsts_s=seconds)) if one.name == "gateway")
        assert agent.command[agent.command.index("--drain") + 2 :] == told


def test_a_plan_survives_its_file(tmp_path: Path) -> None:
    given = replace(
        plan(FACTS), programs=(Program("demo", ("a", "b c"), once=True),), probes=(("web", "http://x"),)
    )
    given.save(tmp_path / "plan.json")
    assert Plan.load(tmp_path / "plan.json") == given


def test_loopback_reaches_what_is_bound_to_everything() -> None:
    assert [loopback(bind) for bind in ("0.0.0.0", "::", "::1", "10.0.0.7")] == [
        *("127.0.0.1", "[::1]", "[::1]", "10.0.0.7")
    ]
