"""`trimaran nats-server`: a node that takes nats-server's flags and configuration files.

So that what starts `nats-server` (scripts, clients' tests) can start Trimaran. Flags are written as Go
programs take them: one dash or two, the value behind a blank or `=`. What is asked for and not supported is
refused, or named in a warning where leaving it out harms nobody.
"""

from __future__ import annotations

import functools
import logging
import os
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast
from urllib.parse import urlsplit

import click

from .. import __version__
from ..actors.certificates import BadCertificate, ClientTls, PeerTls, client_tls, peer_tls
from ..actors.gateway.access import Access, User
from ..actors.gateway.conf import BadConf, Value, load_conf
from ..actors.options import Options, from_mapping
from ..actors.security import BadSecurity, Security, access_from, limits_from, seconds, tls_from
from ..actors.setting import BadOption
from ..actors.stream.config import COMPATIBLE_VERSION
from ..actors.units import join_address
from ..actors.world import World
from . import Failure
from .node import EXIT_BAD_OPTION, run

logger = logging.getLogger("trimaran.nats-server")

VALUED: Final = {
    **dict.fromkeys(["p", "port"], "port"),
    **dict.fromkeys(["a", "addr", "net"], "host"),
    **dict.fromkeys(["m", "http_port"], "http_port"),
    **dict.fromkeys(["n", "name", "server_name"], "server_name"),
    **dict.fromkeys(["sd", "store_dir"], "store_dir"),
    **dict.fromkeys(["c", "config"], "config"),
    **dict.fromkeys(["cluster", "cluster_listen"], "cluster_listen"),
    **dict.fromkeys(["l", "log"], "log_file"),
    **dict.fromkeys(["P", "pid"], "pid_file"),
    "routes": "routes",
    "cluster_name": "cluster_name",
    "user": "user",
    "pass": "pass",
    "auth": "auth",
    "tlscert": "tlscert",
    "tlskey": "tlskey",
    "tlscacert": "tlscacert",
    **dict.fromkeys(["profile", "connect_retries", "log_size_limit", "remote_syslog", "r"], ""),
}
"""Flags with a value, and what they are about; empty: nothing here."""
SWITCHES: Final = {
    **dict.fromkeys(["js", "jetstream"], "jetstream"),
    **dict.fromkeys(["D", "debug", "V", "trace", "DV", "DVV", "VV"], "debug"),
    "tls": "tls",
    "tlsverify": "tlsverify",
    "t": "check",
    **dict.fromkeys(["v", "version"], "version"),
    **dict.fromkeys(["h", "help"], "help"),
    **dict.fromkeys(["no_advertise", "T", "logtime", "s", "syslog", "js_no_advertise"], ""),
}
LIMITS: Final = {
    "max_connections": "max-connections",
    "max_payload": "max-payload",
    "max_control_line": "max-control-line",
    "max_pending": "max-pending",
    "max_subscriptions": "max-subscriptions",
}
"""Keys of the configuration that are options of a node."""
UNDERSTOOD: Final = frozenset(
    {
        *LIMITS,
        *("port", "host", "net", "listen", "http", "http_port", "monitor_port", "server_name", "jetstream"),
        *("authorization", "accounts", "no_auth_user", "system_account", "tls", "cluster", "debug", "trace"),
        *("ping_interval", "log_file", "logfile", "pid_file", "store_dir"),
    }
)
REFUSED: Final = ("websocket", "mqtt", "leafnodes", "leaf", "gateway", "operator", "resolver", "trusted_keys")
"""What somebody would miss who believes it is there."""
HIGHEST_PAYLOAD: Final = 8 << 20
SMALL: Final = {"segment-bytes": 4 << 20, "batch-bytes": 2 << 20, "log-cache-bytes": 1 << 20}
"""Of a server that stores nothing for its clients: its own log, which is in memory, takes this much."""
USAGE: Final = """\
Usage: trimaran nats-server [options], as of nats-server:
  -a HOST -p PORT -m HTTP_PORT -n NAME -c FILE -P FILE -l FILE -D -V -DV
  -js -sd DIR
  --user USER --pass PASSWORD --auth TOKEN
  --tls --tlscert FILE --tlskey FILE --tlsverify --tlscacert FILE
  --cluster URL --routes URL,URL --cluster_name NAME"""


@dataclass
class Wanted:
    """What flags and configuration come to."""

    options: dict[str, object] = field(default_factory=dict)
    """Of the node, by flag."""
    pid_file: str = ""
    log_file: str = ""
    stores: bool = False
    notes: list[str] = field(default_factory=list)
    """Warnings."""


def read_flags(arguments: Sequence[str]) -> dict[str, str]:
    """Flags by what they are about. Raises Failure."""
    found: dict[str, str] = {}
    rest = list(arguments)
    while rest:
        word = rest.pop(0)
        name, equals, value = word.lstrip("-").partition("=")
        if not word.startswith("-") or not (name in VALUED or name in SWITCHES):
            raise Failure(f"{word}: there is no such flag", EXIT_BAD_OPTION)
        if name in SWITCHES:
            if not equals or value.lower() in ("true", "1"):
                found[SWITCHES[name]] = "true"
        elif equals or rest:
            found[VALUED[name]] = value if equals else rest.pop(0)
        else:
            raise Failure(f"{word}: a value is missing", EXIT_BAD_OPTION)
    return found


def wanted(flags: Mapping[str, str], conf: Mapping[str, Value]) -> Wanted:
    """A node's options from flags and configuration; flags win. Raises Failure, BadConf."""
    for name in REFUSED:
        if conf.get(name):
            raise BadConf(f"{name} is not supported")
    found = Wanted(log_file=flags.get("log_file", str(conf.get("log_file", conf.get("logfile", "")))))
    found.pid_file = flags.get("pid_file", str(conf.get("pid_file", "")))
    options = found.options
    options["listen"], options["http"] = _addresses(flags, conf)
    if options["http"] is None:
        del options["http"]
    _store(flags, conf, found)
    _cluster(flags, conf, options)
    for name, flag in LIMITS.items():
        if name in conf:
            options[flag] = conf[name]
    payload = options.get("max-payload", 0)
    if isinstance(payload, int) and payload > SMALL["batch-bytes"] // 2:
        if payload > HIGHEST_PAYLOAD:
            raise BadConf(f"max_payload: at most {HIGHEST_PAYLOAD}")
        options |= {"batch-bytes": 2 * payload, "segment-bytes": 64 << 20}
    if "ping_interval" in conf:
        options["ping-interval"] = f"{round(seconds(conf['ping_interval']) * 1000)}ms"
    authorization = conf.get("authorization", {})
    if isinstance(authorization, dict) and "timeout" in authorization:
        options["auth-timeout"] = f"{round(seconds(authorization['timeout']) * 1000)}ms"
    if "debug" in flags or conf.get("debug") is True or conf.get("trace") is True:
        options["log-level"] = "debug"
    found.notes += [f"configuration: {name} is left out" for name in sorted(set(conf) - UNDERSTOOD)]
    return found


def _addresses(flags: Mapping[str, str], conf: Mapping[str, Value]) -> tuple[str, str | None]:
    host, port = str(conf.get("host", conf.get("net", "0.0.0.0"))), str(conf.get("port", 4222))
    if "listen" in conf:
        host, port = _host_and_port(str(conf["listen"]), host)
    host, port = flags.get("host", host), flags.get("port", port)
    http = flags.get("http_port", str(conf.get("http_port", conf.get("monitor_port", ""))))
    if not http and "http" in conf:
        return _joined(host, port), _joined(*_host_and_port(str(conf["http"]), host))
    return _joined(host, port), _joined(host, http) if http and http != "0" else None


def _host_and_port(text: str, host: str) -> tuple[str, str]:
    """`HOST:PORT`, `:PORT` or `PORT`."""
    before, colon, port = text.rpartition(":")
    return (before.strip("[]") or host, port) if colon else (host, text)


def _joined(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _store(flags: Mapping[str, str], conf: Mapping[str, Value], found: Wanted) -> None:
    block = conf.get("jetstream", False)
    found.stores = "jetstream" in flags or (block not in (False, "disabled", "false"))
    directory = flags.get("store_dir", str(conf.get("store_dir", "")))
    if isinstance(block, dict):
        directory = directory or str(block.get("store_dir", block.get("store", "")))
        if block.get("domain") and found.stores:
            found.options["jetstream-domain"] = block["domain"]
        found.notes += [
            f"configuration: jetstream.{name} is left out"
            for name in block
            if name not in ("store_dir", "store", "domain")
        ]
    if found.stores:
        base = Path(directory) if directory else Path(tempfile.gettempdir()) / "trimaran-nats-server"
        found.options["data"] = base / "trimaran"
    else:
        found.options |= {**SMALL, "jetstream": "off"}


def _cluster(flags: Mapping[str, str], conf: Mapping[str, Value], options: dict[str, object]) -> None:
    """Routes know addresses and no names: a node of a cluster is named by its own address."""
    block = conf.get("cluster", {})
    if not isinstance(block, dict):
        raise BadConf("cluster: a block is expected")
    listen = flags.get("cluster_listen", str(block.get("listen", "")))
    if not listen and "port" in block:
        listen = _joined(str(block.get("host", "127.0.0.1")), str(block["port"]))
    name = flags.get("cluster_name", str(block.get("name", "")))
    if name:
        options["cluster-name"] = name
    given = block.get("routes", [])
    routes = (
        flags["routes"].split(",")
        if "routes" in flags
        else [str(each) for each in cast("list[Value]", given)]
    )
    if not listen:
        if any(routes):
            raise BadConf("routes need an address of this server's own: --cluster")
        if flags.get("server_name") or conf.get("server_name"):
            options["name"] = flags.get("server_name", str(conf.get("server_name", "")))
        return
    mine = _route(listen)
    others = [each for each in map(_route, filter(None, routes)) if each != mine]
    options["peer-listen"] = mine
    options["admit"] = "anybody"  # whoever has a route is in: servers find each other through any one of them
    options["name"] = node_name(mine) if others else flags.get("server_name", node_name(mine))
    options["peer"] = tuple(f"{node_name(each)}={each}" for each in others)


def _route(text: str) -> str:
    """HOST:PORT of `nats://user:password@host:port`, `host:port` or a port."""
    if "://" in text:
        parts = urlsplit(text)
        if parts.hostname is None or parts.port is None:
            raise BadConf(f"{parts.scheme}://...: a host and a port are needed")
        return join_address(parts.hostname, parts.port)
    return _joined(*_host_and_port(text, "127.0.0.1"))


def node_name(address: str) -> str:
    """What a node at this address of the cluster is called."""
    return address.translate(str.maketrans(".:", "--", "[]"))


def load_security(flags: Mapping[str, str]) -> Security:
    """Users and certificates of flags and configuration, read anew. Raises BadSecurity."""
    try:
        conf = read_conf(flags)
        access = _access(flags, conf)
        tls = _tls(flags) if "tls" in flags or "tlscert" in flags else tls_from(conf)
        return Security(access, tls, _peer_tls(conf), limits_from(conf))
    except (BadConf, BadCertificate) as error:
        raise BadSecurity(str(error)) from None


def _tls(flags: Mapping[str, str]) -> ClientTls:
    authority = Path(flags["tlscacert"]) if "tlscacert" in flags else None
    pair = Path(flags.get("tlscert", "")), Path(flags.get("tlskey", ""))
    return client_tls(*pair, authority, verify="tlsverify" in flags)


def _access(flags: Mapping[str, str], conf: Mapping[str, Value]) -> Access | None:
    if "auth" in flags:
        return Access(token=flags["auth"])
    if "user" in flags:
        return Access([User(flags["user"], flags.get("pass", ""))])
    return access_from(conf)


def _peer_tls(conf: Mapping[str, Value]) -> PeerTls | None:
    cluster = conf.get("cluster", {})
    block = cluster.get("tls") if isinstance(cluster, dict) else None
    if not isinstance(block, dict):
        return None
    try:
        return peer_tls(*(Path(str(block[name])) for name in ("cert_file", "key_file", "ca_file")))
    except KeyError as missing:
        raise BadConf(f"cluster: tls: {missing.args[0]} is needed") from None


def read_conf(flags: Mapping[str, str]) -> dict[str, Value]:
    """The configuration file that the flags name, if any. Raises BadConf."""
    return load_conf(Path(flags["config"])) if "config" in flags else {}


@click.command(
    "nats-server",
    short_help="Run a node with nats-server's flags and configuration.",
    context_settings={
        "ignore_unknown_options": True,
        "help_option_names": [],
        "allow_interspersed_args": False,
    },
)
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
def nats_server(arguments: Sequence[str]) -> int:
    """Run a node with nats-server's flags and configuration."""
    flags = read_flags(arguments)
    if "help" in flags:
        click.echo(USAGE)
        return 0
    if "version" in flags:
        click.echo(f"nats-server: v{COMPATIBLE_VERSION} (trimaran {__version__})")
        return 0
    try:
        found = wanted(flags, read_conf(flags))
        if "check" in flags:
            load_security(flags)
            return 0
        options = from_mapping(found.options)
    except (BadConf, BadOption, BadSecurity) as error:
        raise Failure(str(error), EXIT_BAD_OPTION) from None
    return _serve(found, options, functools.partial(load_security, flags))


def _serve(found: Wanted, options: Options, security: functools.partial[Security]) -> int:
    if found.log_file:
        _log_to(found.log_file)
    if found.pid_file:
        Path(found.pid_file).write_text(f"{os.getpid()}\n")
    # What stores nothing leaves nothing behind, also when it is killed.
    return run(options, security, found.notes, None if found.stores else World.forgetful)


def _log_to(path: str) -> None:
    """What would go to stderr is appended to a file."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    except OSError as error:
        raise Failure(f"--log: {path}: {error.strerror}", EXIT_BAD_OPTION) from None
    os.dup2(file, sys.stderr.fileno())
    os.close(file)
