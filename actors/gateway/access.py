"""Who may connect, and what they may publish and subscribe to.

Secrets are compared in constant time, a name that nobody has costs as much as a wrong password, and nothing
here puts a secret into a text. Passwords may be bcrypt hashes (`$2a$`, `$2b$`, `$2y$`); checking
one takes some 100 ms of a core, so that it belongs into a thread: `Candidate.slow` says so.
"""

from __future__ import annotations

import base64
import binascii
import functools
import hmac
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from ..stream.subjects import subject_matches, subjects_overlap

__all__ = ["Access", "Candidate", "Certificate", "Permissions", "Responses", "Rules", "User", "is_user_nkey"]

BCRYPT_LIMIT: Final = 72
"""bcrypt looks at so many bytes of a password; more are refused instead of ignored."""
USER_PREFIX: Final = 20 << 3
"""First byte of a decoded public nkey of a user, whose text begins with U."""

_BCRYPT: Final = re.compile(rb"\$2[aby]\$\d\d\$[./A-Za-z0-9]{53}")


@dataclass(frozen=True, slots=True)
class Rules:
    """Patterns of subjects; for subscriptions one may name a queue group behind a blank."""

    allow: tuple[str, ...] | None = None
    """None: everything that is not denied."""
    deny: tuple[str, ...] = ()

    def permit(self, subject: str, queue: str = "") -> bool:
        """Whether all that a subject (or pattern) means is allowed, and not all of it denied."""
        allowed = self.allow is None or _named(self.allow, subject, queue)
        return allowed and not _named(self.deny, subject, queue)


def _named(entries: Sequence[str], subject: str, queue: str) -> bool:
    """Entries with a queue group decide alone about subscriptions in queue groups, where there are any."""
    plain, groups = False, list[str]()
    for entry in entries:
        pattern, _, group = entry.partition(" ")
        if subject_matches(pattern, subject):
            plain = plain or not group
            groups += [group] if group else []
    if queue and groups:
        return any(subject_matches(group, queue) for group in groups)
    return plain


@dataclass(frozen=True, slots=True)
class Responses:
    """Leave to answer requests that were delivered, wherever they want their answer."""

    maximum: int = 1
    """Answers to one request; 0: any number."""
    seconds: float = 120.0
    """How long after the request."""


@dataclass(frozen=True, slots=True)
class Permissions:
    """What one user may do."""

    publish: Rules = Rules()
    subscribe: Rules = Rules()
    responses: Responses | None = None

    def guards(self, pattern: str) -> bool:
        """Whether a subscription may get messages that are denied, so that each must be looked at."""
        denied = (entry for entry in self.subscribe.deny if " " not in entry)
        return any(subjects_overlap(entry, pattern) for entry in denied)


@dataclass(frozen=True, slots=True)
class User:
    """Somebody who may connect. The password, or its hash, is not shown."""

    name: str = ""
    password: str = field(default="", repr=False)
    nkey: str = ""
    """Public key, `U...`."""
    permissions: Permissions | None = None
    """None: everything."""
    account: str = ""
    """Whose subjects it sees; empty: the main one, which has the streams."""


@dataclass(frozen=True, slots=True)
class Certificate:
    """Names that a verified client certificate carries."""

    emails: tuple[str, ...] = ()
    hosts: tuple[str, ...] = ()
    subject: str = ""
    """As RFC 2253 writes it, the most specific part first."""


@dataclass(frozen=True, slots=True)
class Candidate:
    """Somebody whose word has still to be checked."""

    user: User
    given: bytes = field(repr=False)
    stored: bytes = field(repr=False)
    known: bool = True

    @property
    def slow(self) -> bool:
        return _BCRYPT.fullmatch(self.stored) is not None

    def verify(self) -> bool:
        """Whether the password is right. Takes long if `slow`."""
        if not self.slow:
            return hmac.compare_digest(self.given, self.stored) and self.known
        import bcrypt  # only servers with such passwords need it, and a server should start fast

        return len(self.given) <= BCRYPT_LIMIT and bcrypt.checkpw(self.given, self.stored) and self.known


TOKEN: Final = User("token")
"""Who shows the token."""


class Access:
    """Everybody who may connect.

    Args:
        users: by name and password, or by nkey.
        token: one secret for everybody instead.
        no_auth_user: who somebody is that shows nothing.
        by_certificate: the verified certificate says who it is.
    """

    def __init__(
        self,
        users: Sequence[User] = (),
        *,
        token: str = "",
        no_auth_user: str = "",
        by_certificate: bool = False,
    ) -> None:
        self._users = {user.name: user for user in users if user.name}
        self._keys = {user.nkey: user for user in users if user.nkey}
        self._token = token.encode()
        self.default = self._users.get(no_auth_user)
        """Who somebody is that shows nothing; None: refused."""
        if no_auth_user and self.default is None:
            raise ValueError(f"no_auth_user: there is no user {no_auth_user!r}")
        self._by_certificate = by_certificate
        self._hashed = any(_BCRYPT.fullmatch(user.password.encode()) for user in users)

    @property
    def required(self) -> bool:
        """Whether anybody is asked for anything."""
        return bool(self._users or self._keys or self._token or self._by_certificate)

    @property
    def announced(self) -> bool:
        """Whether INFO tells clients to show something."""
        return self.required and self.default is None

    @property
    def accounts(self) -> frozenset[str]:
        """Those besides the main one that somebody belongs to."""
        users = (*self._users.values(), *self._keys.values())
        return frozenset(user.account for user in users if user.account)

    @property
    def wants_nonce(self) -> bool:
        """Whether clients sign something."""
        return bool(self._keys)

    def identify(
        self, connect: Mapping[str, object], nonce: bytes, certificate: Certificate | None
    ) -> User | Candidate | None:
        """Who a CONNECT says it is: a user if certain, a candidate to be verified, or None: refused."""
        if not self.required:
            return User()
        if self._by_certificate:
            return self._mapped(certificate)
        if self._keys and (key := _text(connect, "nkey")):
            return self._signed(key, _text(connect, "sig"), nonce)
        if self._token:
            return Candidate(TOKEN, _text(connect, "auth_token").encode(), self._token)
        name = _text(connect, "user")
        if not name and not _text(connect, "pass"):
            return self.default
        return self._named(name, _text(connect, "pass").encode())

    def still_admits(self, name: str, before: Access) -> bool:
        """Whether somebody whom an earlier configuration admitted under a name would be admitted alike."""
        if name == TOKEN.name and self._token:
            return self._token == before._token
        user = self._users.get(name) or self._keys.get(name)
        if user is None:
            return not name and not self.required
        return user == (before._users.get(name) or before._keys.get(name))

    def _named(self, name: str, given: bytes) -> Candidate:
        user = self._users.get(name)
        if user is None:
            return Candidate(User(), given, _NOBODY_HERE if self._hashed else b"?", known=False)
        return Candidate(user, given, user.password.encode())

    def _signed(self, key: str, signature: str, nonce: bytes) -> User | None:
        user = self._keys.get(key)
        raw = _public_key(key)
        if user is None or raw is None:
            return None
        # Only servers with keys need this, and it takes as long to import as all of `storage`.
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(raw).verify(_unpadded(signature), nonce)
        except (InvalidSignature, ValueError):
            return None
        return user

    def _mapped(self, certificate: Certificate | None) -> User | None:
        if certificate is None:
            return None
        names = (*certificate.emails, *certificate.hosts, certificate.subject)
        return next((self._users[name] for name in names if name in self._users), None)


_NOBODY_HERE: Final = b"$2b$11$Vc.DKYrOCtUjPriIEfhKN.fTb6fT95HDVJgsSZ8f2a3.Jj.UjxQfW"
"""What the password of somebody unknown is compared with, at the usual cost of bcrypt."""


def _text(connect: Mapping[str, object], name: str) -> str:
    value = connect.get(name)
    return value if isinstance(value, str) else ""


def _unpadded(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def is_user_nkey(text: str) -> bool:
    """Whether a text is the public nkey of a user, whole and unharmed."""
    return _public_key(text) is not None


@functools.lru_cache(maxsize=1024)
def _public_key(text: str) -> bytes | None:
    """The 32 bytes of a public nkey: base32 of a prefix, the key and a CRC-16 over both."""
    try:
        raw = base64.b32decode(text + "=" * (-len(text) % 8))
    except (binascii.Error, ValueError):
        return None
    if len(raw) != 35 or raw[0] != USER_PREFIX:
        return None
    checked = binascii.crc_hqx(raw[:33], 0) == int.from_bytes(raw[33:], "little")
    return raw[1:33] if checked else None
