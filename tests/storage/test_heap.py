"""Memory of a burst goes back to the system when the log rests, and threads keep none for themselves."""

import platform
import subprocess
import sys

import pytest
import trio

from trimaran.storage import MemoryDisk

from .helpers import create, opened, record

SHOW_HEAPS = """
import ctypes, threading
from trimaran.storage.heap import one_heap

one_heap()
held = []
threads = [threading.Thread(target=lambda: held.append([bytes(2000) for _ in range(100)])) for _ in range(4)]
for thread in threads:
    thread.start()
for thread in threads:
    thread.join()
library = ctypes.CDLL(None)
library.fdopen.restype = ctypes.c_void_p
out = library.fdopen(1, b"w")
library.malloc_info(0, ctypes.c_void_p(out))
library.fflush(ctypes.c_void_p(out))
"""


async def test_after_a_burst_memory_is_given_back_once_the_log_rests(
    monkeypatch: pytest.MonkeyPatch, autojump_clock: trio.testing.MockClock
) -> None:
    given = trio.Event()
    monkeypatch.setattr("trimaran.storage.actor.give_back", given.set)
    async with opened(MemoryDisk()) as storage:
        storage.append([create()])
        await storage.drain()
        await trio.sleep(1)
        assert not given.is_set(), "a small write is no burst"
        storage.note_burst()
        storage.append([record(1)])
        with trio.fail_after(1):
            await given.wait()


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries have no such heaps")
def test_all_threads_share_one_heap() -> None:
    shown = subprocess.run([sys.executable, "-c", SHOW_HEAPS], capture_output=True, check=True, text=True)
    assert shown.stdout.count("<heap nr=") == 1
