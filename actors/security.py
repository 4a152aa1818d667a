"""Users and permissions, and certificates, as nats-server's configuration names them.

    authorization {
      users = [
        { user: alice, password: "$2a$11$...", permissions: { publish: ["a.>"], subscribe: { deny: "b.>" } } }
        { nkey: UD..., permissions: { publish: "$JS.API.>", allow_responses: true } }
      ]
      default_permissions { subscribe: "public.>" }
    }
    no_auth_user: guest
    tls { cert_file: "./server.pem", key_file: "./key.pem", ca_file: "./ca.pem", verify: true }

A single `user` and `password`, or a `token`, may stand in `authorization` instead of `users`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, cast

from .certificates import BadCertificate, ClientTls, PeerTls, client_tls, peer_tls
from .gateway.access import Access, Permissions, Responses, Rules, User, is_user_nkey
from .gateway.conf import BadConf, Value, load_conf
from .options import Options
from .stream.account_limits import UNLIMITED, AccountLimits
from .stream.subjects import is_subject

__all__ = ["BadSecurity", "Security", "access_from", "limits_from", "load_security", "seconds", "tls_from"]


class BadSecurity(ValueError):
    """Users, permissions or certificates can't be used as they are; the text says which and why."""

    exit_code: Final = 2


@dataclass(frozen=True, slots=True)
class Security:
    """Who may talk to a node, and under which protection."""

    access: Access | None = None
    """None: every client."""
    tls: ClientTls | None = None
    peer_tls: PeerTls | None = None
    limits: AccountLimits = UNLIMITED
    """Of the account that has the streams."""


def load_security(options: Options) -> Security:
    """What the options and the files they name say. Raises BadSecurity."""
    try:
        conf = load_conf(options.access) if options.access is not None else {}
        access = _access(options, conf)
        return Security(access, _tls(options), _peer_tls(options), limits_from(conf))
    except (BadConf, BadCertificate) as error:
        raise BadSecurity(str(error)) from None


def _access(options: Options, conf: dict[str, Value]) -> Access | None:
    if options.access is None:
        return None
    if options.tls_verify == "map":
        conf["tls"] = {"verify_and_map": True}
    access = access_from(conf)
    if access is None:
        raise BadConf(f"{options.access}: it names nobody who may connect")
    return access


def _tls(options: Options) -> ClientTls | None:
    if options.tls_cert is None or options.tls_key is None:
        return None
    verify, first = options.tls_verify != "off", options.tls_first == "on"
    return client_tls(options.tls_cert, options.tls_key, options.tls_ca, verify=verify, first=first)


def _peer_tls(options: Options) -> PeerTls | None:
    certificate, key, authority = options.peer_tls_cert, options.peer_tls_key, options.peer_tls_ca
    if certificate is None or key is None or authority is None:
        return None
    return peer_tls(certificate, key, authority)


_DURATION: Final = re.compile(r"(\d+(?:\.\d+)?)(ns|us|ms|s|m|h)")
_UNITS: Final = {"ns": 1e-9, "us": 1e-6, "ms": 1e-3, "s": 1.0, "m": 60.0, "h": 3600.0}


def access_from(conf: Mapping[str, Value]) -> Access | None:
    """Who may connect, from a whole configuration; None: everybody. Raises BadConf."""
    block = _block(conf, "authorization")
    default = _permissions(_block(block, "default_permissions")) if "default_permissions" in block else None
    users = [_user(each, default) for each in _users(block)]
    for account, fields in _accounts(conf, bool(users) or "user" in block):
        of_account = _block(fields, "default_permissions")
        permissions = _permissions(of_account) if of_account else default
        users += [replace(_user(each, permissions), account=account) for each in _users(fields)]
    if "user" in block:
        users.append(_user(block, default))
    names = [user.name or user.nkey for user in users]
    if len(set(names)) < len(names):
        raise BadConf("authorization: a user is named twice")
    token = str(block.get("token", ""))
    if token and users:
        raise BadConf("authorization: it is either a token or users")
    by_certificate = bool(_block(conf, "tls").get("verify_and_map", False))
    no_auth_user = str(conf.get("no_auth_user", ""))
    if not (users or token or by_certificate or no_auth_user):
        return None
    try:
        return Access(users, token=token, no_auth_user=no_auth_user, by_certificate=by_certificate)
    except ValueError as error:
        raise BadConf(str(error)) from None


def tls_from(conf: Mapping[str, Value]) -> ClientTls | None:
    """How clients' connections are encrypted; None: not at all. Raises BadConf, BadCertificate.

    Files are looked for where the process runs, as in nats-server.
    """
    block = _block(conf, "tls")
    if not block:
        return None
    if "cert_file" not in block or "key_file" not in block:
        raise BadConf("tls: cert_file and key_file are needed")
    mapped = bool(block.get("verify_and_map", False))
    return client_tls(
        Path(str(block["cert_file"])),
        Path(str(block["key_file"])),
        Path(str(block["ca_file"])) if "ca_file" in block else None,
        verify=bool(block.get("verify", False)) or mapped,
        first=block.get("handshake_first", False) not in (False, "auto"),
    )


def seconds(value: Value) -> float:
    """A time as a number of seconds or a text such as `2s` or `1m30s`. Raises BadConf."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    parts = _DURATION.findall(str(value))
    if not parts or "".join(number + unit for number, unit in parts) != value:
        raise BadConf(f"{value!r} is no duration")
    return sum(float(number) * _UNITS[unit] for number, unit in parts)


def _accounts(conf: Mapping[str, Value], others: bool) -> Iterator[tuple[str, Mapping[str, Value]]]:
    """(name, block) of each account with users, besides the system's, of which nothing is shown here.

    The name is empty for the main one, which has the streams: the one with JetStream, or the only one there
    is, if nobody is named elsewhere (`others`).
    """
    system = str(conf.get("system_account", "$SYS")).lower()
    accounts = {
        name: each
        for name, each in _block(conf, "accounts").items()
        if isinstance(each, dict) and each.get("users") and name != system
    }
    for name, each in accounts.items():
        unknown = {"imports", "exports", "mappings", "limits"} & {key for key, value in each.items() if value}
        if unknown:
            raise BadConf(f"accounts: {name}: {sorted(unknown)[0]} is not supported")
        if name.split() != [name] or not name.isprintable():
            raise BadConf(f"accounts: {name!r} is no name")
    stored = [
        name for name, each in accounts.items() if each.get("jetstream") not in (None, False, "disabled")
    ]
    if len(stored) > 1:
        raise BadConf("accounts: one at most can have JetStream here")
    if not stored and len(accounts) == 1 and not others:
        stored = list(accounts)
    for name, each in accounts.items():
        yield "" if name in stored else name, each


def limits_from(conf: Mapping[str, Value]) -> AccountLimits:
    """What the account with the streams may have, from a whole configuration. Raises BadConf."""
    accounts = [each for each in _block(conf, "accounts").values() if isinstance(each, dict)]
    blocks = [each["jetstream"] for each in accounts if isinstance(each.get("jetstream"), dict)]
    found: dict[str, int] = {}
    required = False
    for key, value in cast("dict[str, Value]", blocks[0] if blocks else {}).items():
        if key == "cluster_traffic":
            continue  # which account pays for it; here all of it is the nodes' own
        if key not in _LIMITS:
            raise BadConf(f"accounts: jetstream: {key} means nothing")
        name = _LIMITS[key]
        if name == "max_bytes_required":
            required = value is True
        elif isinstance(value, int) and not isinstance(value, bool):
            found[name] = value
        else:
            raise BadConf(f"accounts: jetstream: {key}: {value!r} is no number")
    return AccountLimits(**found, max_bytes_required=required)


_LIMITS: Final = {
    **dict.fromkeys(["max_memory", "max_mem", "memory", "mem"], "max_memory"),
    **dict.fromkeys(["max_store", "max_file", "max_disk", "store", "disk"], "max_storage"),
    **dict.fromkeys(["max_streams", "streams"], "max_streams"),
    **dict.fromkeys(["max_consumers", "consumers"], "max_consumers"),
    "max_ack_pending": "max_ack_pending",
    **dict.fromkeys(["memory_max_stream_bytes", "mem_max_stream_bytes"], "memory_max_stream_bytes"),
    **dict.fromkeys(["store_max_stream_bytes", "disk_max_stream_bytes"], "storage_max_stream_bytes"),
    **dict.fromkeys(["max_bytes_required", "max_stream_bytes", "max_bytes"], "max_bytes_required"),
}
"""Keys of an account's `jetstream` block, and the limits that they are."""


def _users(block: Mapping[str, Value]) -> Sequence[Mapping[str, Value]]:
    users = block.get("users", [])
    if not isinstance(users, list) or not all(isinstance(each, dict) for each in users):
        raise BadConf("users: a list of blocks is expected")
    return cast("list[dict[str, Value]]", users)


def _user(fields: Mapping[str, Value], default: Permissions | None) -> User:
    nkey, name = str(fields.get("nkey", "")), str(fields.get("user", fields.get("username", "")))
    if nkey and not is_user_nkey(nkey):
        raise BadConf(f"users: {nkey!r} is no public nkey of a user")
    if not (nkey or name):
        raise BadConf("users: one has neither a name nor an nkey")
    given = _block(fields, "permissions") or _block(fields, "permission") or _block(fields, "authorization")
    permissions = _permissions(given) if given else default
    return User(name, str(fields.get("password", fields.get("pass", ""))), nkey, permissions)


def _permissions(block: Mapping[str, Value]) -> Permissions:
    unknown = set(block) - {"publish", "pub", "import", "subscribe", "sub", "export", "allow_responses"}
    if unknown:
        raise BadConf(f"permissions: {sorted(unknown)[0]} means nothing")
    publish = block.get("publish", block.get("pub"))
    responses = _responses(block.get("allow_responses", False))
    if publish is None and responses is not None:
        publish = []  # as in the reference, who may answer may publish nothing else unless it is said
    return Permissions(_rules(publish), _rules(block.get("subscribe", block.get("sub"))), responses)


def _rules(value: Value | None) -> Rules:
    if value is None:
        return Rules()
    if isinstance(value, dict):
        allow = _patterns(value["allow"]) if "allow" in value else None
        return Rules(allow, _patterns(value.get("deny", [])))
    return Rules(_patterns(value))


def _patterns(value: Value) -> tuple[str, ...]:
    patterns = tuple(map(str, value)) if isinstance(value, list) else (str(value),)
    for pattern in patterns:
        subject, *queue = pattern.split(" ")
        if not is_subject(subject) or len(queue) > 1:
            raise BadConf(f"permissions: {pattern!r} is no subject")
    return patterns


def _responses(value: Value) -> Responses | None:
    if isinstance(value, dict):
        maximum = value.get("max", 1)
        if not isinstance(maximum, int):
            raise BadConf("allow_responses: max is no number")
        return Responses(max(0, maximum), seconds(value.get("expires", value.get("ttl", 120))))
    return Responses() if value is True else None


def _block(block: Mapping[str, Value], name: str) -> Mapping[str, Value]:
    value = block.get(name, {})
    if not isinstance(value, dict):
        raise BadConf(f"{name}: a block is expected")
    return value
