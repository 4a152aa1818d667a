"""Accounts: clients that see nothing of each other's subjects. Streams belong to the main one.

Each account has a table of its own, so that no pattern, however wide, reaches into another. Between nodes,
which are all configured alike, an account's subjects carry its name in front.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Final

from .router import Router
from .routes import Routes
from .subjects import SubjectTable

if TYPE_CHECKING:
    from random import Random

    from .backend import Backend

__all__ = ["MAIN", "Account", "Accounts"]

MAIN: Final = b""
"""The account of whoever is in none, and of all streams."""


class Account:
    """One subject space."""

    def __init__(self, name: bytes, table: SubjectTable, routes: Routes, random: Random) -> None:
        self.name = name
        self.table = table
        self.router = Router(table, routes, random, name)


class Accounts:
    """All accounts of a node, and what it shares of them with the others.

    Args:
        names: those besides the main one.
    """

    def __init__(self, backend: Backend, random: Random, names: Iterable[str]) -> None:
        self._random = random
        self._tables = {MAIN: SubjectTable()}
        self.routes = Routes(backend, self._tables)
        self._accounts: dict[bytes, Account] = {}
        self.main = self._add(MAIN)
        self.expect(names)

    def expect(self, names: Iterable[str]) -> None:
        """These accounts have users too. What other nodes' clients subscribed to there is asked for."""
        new = [name.encode() for name in names if name.encode() not in self._accounts]
        for name in new:
            self._tables[name] = SubjectTable()
            self._add(name)
        if new:
            self.routes.ask_again()

    def names(self) -> list[str]:
        """Those besides the main one."""
        return [name.decode() for name in self._accounts if name != MAIN]

    def of(self, name: str) -> Account:
        """The account of this name, which is expected."""
        return self._accounts[name.encode()]

    def get(self, name: bytes) -> Account | None:
        return self._accounts.get(name)

    def _add(self, name: bytes) -> Account:
        account = self._accounts[name] = Account(name, self._tables[name], self.routes, self._random)
        return account
