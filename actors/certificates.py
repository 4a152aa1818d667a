"""TLS contexts from files: for clients, and between the nodes of a cluster. TLS 1.2 at least."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from pathlib import Path

__all__ = ["BadCertificate", "ClientTls", "PeerTls", "client_tls", "peer_tls"]


class BadCertificate(ValueError):
    """A certificate, key or authority can't be used: the text names the file."""


@dataclass(frozen=True, slots=True)
class ClientTls:
    """How clients' connections are encrypted."""

    context: ssl.SSLContext
    handshake_first: bool = False
    """Before INFO, not behind it."""
    verifies: bool = False
    """Clients show a certificate."""


@dataclass(frozen=True, slots=True)
class PeerTls:
    """The two ends of a link, both of which verify: who has a certificate of the authority is a member."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def client_tls(
    certificate: Path, key: Path, authority: Path | None = None, *, verify: bool = False, first: bool = False
) -> ClientTls:
    """Raises BadCertificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    _load(context, certificate, key, authority)
    if verify:
        if authority is None:
            raise BadCertificate("client certificates are verified by an authority, and none is given")
        context.verify_mode = ssl.CERT_REQUIRED
    return ClientTls(context, first, verify)


def peer_tls(certificate: Path, key: Path, authority: Path) -> PeerTls:
    """Raises BadCertificate."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    # Nodes move between addresses; the authority signs for this cluster alone, so its word is enough.
    client.check_hostname = False
    for context in (server, client):
        _load(context, certificate, key, authority)
        context.verify_mode = ssl.CERT_REQUIRED
    return PeerTls(server, client)


def _load(context: ssl.SSLContext, certificate: Path, key: Path, authority: Path | None) -> None:
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    for path in (certificate, key):
        if not path.is_file():  # else OpenSSL doesn't say which of them it is
            raise BadCertificate(f"{path}: no such file")
    try:
        context.load_cert_chain(certificate, key, password=_no_password)
    except (OSError, ValueError) as error:
        raise BadCertificate(f"{certificate} with {key}: {_reason(error)}") from error
    if authority is not None:
        try:
            context.load_verify_locations(authority)
        except OSError as error:
            raise BadCertificate(f"{authority}: {_reason(error)}") from error


def _no_password() -> str:
    """A key under a password would make OpenSSL ask on a terminal that nobody sits at."""
    raise ValueError("the key is encrypted")


def _reason(error: Exception) -> str:
    if "PEM lib" in str(error):  # all that OpenSSL says of a file that is something else
        return "no certificate or key in it"
    return getattr(error, "strerror", None) or str(error) or "no certificate or key in it"
