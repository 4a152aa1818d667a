"""The status page in a real browser: what it draws, that no name becomes markup, and what it may load."""

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import nats
import pytest
import trio

from tests.command.test_monitor import Node
from tests.system.browser import Browser, WebDriverError, missing_browser, open_browser
from tests.system.processes import ProcessCluster, running
from trimaran.actors.monitor import Monitor
from trimaran.storage.histogram import BATCH_BOUNDS, SECONDS_BOUNDS

HOSTILE: Final = "<img src=x onerror=\"document.title='taken'\"></td><script>alert(1)</script>&lt;"
KEYS: Final = {"tab": "\ue004", "space": " "}
LINES: Final = (
    "return [...document.querySelectorAll('.chart path')].filter((p) => p.getAttribute('d')).length"
)


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    reason = missing_browser()
    if reason:
        assert "TRIMARAN_BROWSER" not in os.environ, reason  # .ci/run has installed one
        pytest.skip(f"the status page is NOT tested: {reason}")
    with open_browser(tmp_path_factory.mktemp("browser")) as opened:
        yield opened


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ProcessCluster]:
    with running(tmp_path_factory.mktemp("status-page")) as nodes:
        yield nodes


@contextmanager
def monitored(node: Node) -> Iterator[str]:
    """The URL of a monitor of this node, in a thread of its own."""
    started = threading.Event()
    said: list[object] = []

    async def serve() -> None:
        with trio.CancelScope() as scope:
            said.append(scope)
            async with trio.open_nursery() as nursery:
                said.append(await nursery.start(Monitor(node, "127.0.0.1:0").run))
                said.append(trio.lowlevel.current_trio_token())
                started.set()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    started.wait()
    scope, address, token = said
    assert isinstance(scope, trio.CancelScope) and isinstance(token, trio.lowlevel.TrioToken)
    try:
        yield f"http://{address}/"
    finally:
        token.run_sync_soon(scope.cancel)
        thread.join()


class Told(Node):
    """A node whose page says what the test wants; its counters grow by ten a look."""

    def __init__(self, *others: dict[str, object]) -> None:
        super().__init__()
        self.others = list(others)
        self.looks = 0
        self.more = 0
        """Added to its counters."""
        self.groups_said: list[dict[str, object]] = []

    def summary(self, uptime: float) -> dict[str, object]:
        ten = 10 * self.looks + self.more
        names = ("cpu_seconds", "mem", "connections", "subscriptions", "in_msgs", "out_msgs", "log_bytes")
        return {
            **dict.fromkeys(names, ten),
            **dict.fromkeys(("syncs", "batch_entries", "elections", "groups_total", "groups_led"), ten),
            "uptime_seconds": uptime,
            "reasons": [],
            "sync_counts": [self.looks] * (len(SECONDS_BOUNDS) + 1),
            "commit_counts": [0] * (len(SECONDS_BOUNDS) + 1),
            "batch_counts": [0, self.looks] + [0] * (len(BATCH_BOUNDS) - 1),
            "groups": self.groups_said,
        }

    def statusz(self) -> dict[str, object]:
        self.looks += 1
        mine = {"name": "a", "id": "1", "age_seconds": 0.0, "summary": self.summary(float(self.looks))}
        return {
            "server_name": "a",
            "cluster_name": HOSTILE,
            "batch_bounds": BATCH_BOUNDS,
            "seconds_bounds": SECONDS_BOUNDS,
            "nodes": [mine, *self.others],
        }


def group(name: str, role: str, **more: object) -> dict[str, object]:
    shown = {"name": name, "kind": "stream", "role": role, "term": 2, "commit": 9, "applied": 9, "quiet": 0}
    return {**shown, "trouble": "", "lags": [], "messages": 5, "bytes": 5000, "consumers": 1, **more}


def test_it_shows_a_living_cluster(browser: Browser, cluster: ProcessCluster) -> None:
    async def publish() -> None:
        client = await nats.connect(cluster["a"].url)
        stream = client.jetstream(timeout=10)
        await stream.add_stream(name="ORDERS", subjects=["orders.>"], num_replicas=3)
        for number in range(50):
            await stream.publish("orders.paid", b"%d" % number)
        await client.close()

    browser.open(f"http://127.0.0.1:{cluster['a'].http}/")
    browser.until("return document.querySelector('#verdict').textContent === 'healthy'")
    assert browser.text(".totals dd") == "3 of 3"
    browser.until("return document.querySelectorAll('.node').length === 3")
    asyncio.run(publish())
    row = browser.until(
        "return [...document.querySelectorAll('#rows tr')].map((row) => [...row.cells].map((cell) => "
        "cell.textContent)).find((cells) => cells[0] === 'ORDERS' && cells[6] === '50')"
    )
    assert sorted(row[1:4]) == ["follower", "follower", "leader"]
    browser.until(
        "return [...document.querySelectorAll('rect')].filter((r) => r.height.baseVal.value).length > 2"
    )
    assert browser.complaints() == []


def test_names_and_reasons_never_become_markup(browser: Browser) -> None:
    node = Told({"name": HOSTILE, "id": "2", "age_seconds": 0.1, "summary": None})
    ill = node.summary(1.0) | {"reasons": [HOSTILE], "version": HOSTILE}
    node.others.append({"name": f"{HOSTILE}2", "id": "3", "age_seconds": 0.1, "summary": ill})
    node.groups_said = [group(HOSTILE, "leader", lags=[[HOSTILE, 3]]), group("x", HOSTILE, trouble=HOSTILE)]
    with monitored(node) as url:
        browser.open(url)
        browser.until("return document.querySelectorAll('#rows tr').length === 2")
        shown = browser.run(
            "return [...document.querySelectorAll('#rows .name, .node h3')].map((e) => e.textContent)"
        )
        assert sorted(shown) == sorted(["a", HOSTILE, f"{HOSTILE}2", HOSTILE, "x"])
        assert browser.run("return document.querySelectorAll('img, script:not([src])').length") == 0
        assert HOSTILE in browser.run("return document.title")
        assert browser.complaints() == []


def test_it_may_load_nothing_but_its_own_files(browser: Browser) -> None:
    with monitored(Told()) as url:
        browser.open(url)
        browser.run(
            "const add = (tag) => document.body.appendChild(document.createElement(tag));"
            "add('img').src = 'http://127.0.0.1:9/x.png'; fetch('http://127.0.0.1:9/').catch(() => 0);"
            "const own = document.createElement('script'); own.append('window.taken = 1');"
            "document.body.append(own);"
        )
        refused = browser.complaints()
        assert sum("Content Security Policy" in each for each in refused) >= 3, refused
        assert browser.run("return window.taken") is None
        with pytest.raises(WebDriverError, match="TrustedHTML"):
            browser.run("document.body.innerHTML = '<b>'")


def test_a_node_that_does_not_answer_is_named(browser: Browser) -> None:
    node = Told()
    node.others.append({"name": "b", "id": "2", "age_seconds": 30.0, "summary": node.summary(1.0)})
    node.groups_said = [group("S", "leader", lags=[["b", 3]])]
    with monitored(node) as url:
        browser.open(url)
        browser.until("return document.querySelector('#verdict').textContent === 'no answer from b'")
        assert browser.text(".totals dd") == "1 of 2"
        assert browser.text("#rows tr").split("\t")[:3] == ["S", "leader", "no answer"]


def test_a_restart_of_a_node_is_no_flood_of_messages(browser: Browser) -> None:
    node = Told()
    with monitored(node) as url:
        browser.open(url)
        browser.until(f"{LINES} > 3")
        assert "p50" in browser.text(".node")
        before = node.looks
        node.looks, node.more = 0, 1_000_000  # a process that began again counts for itself
        browser.until("return document.querySelector('.node .facts').textContent.includes('up 3 s')")
        assert before > 1
        path = browser.run("return document.querySelector('.chart path.one').getAttribute('d')")
        heights = [float(pair.split(" ")[1]) for pair in path.replace("M", "L").split("L")[1:]]
        assert all(0 <= height <= 64 for height in heights), path


def test_a_narrow_screen_and_a_keyboard_are_enough(browser: Browser) -> None:
    node = Told()
    node.groups_said = [group(f"STREAM-{number}", "leader") for number in range(30)]
    with monitored(node) as url:
        browser.open(url)
        browser.until("return document.querySelectorAll('#rows tr').length === 30")
        browser.resize(360, 740)
        wide = "return document.documentElement.scrollWidth - document.documentElement.clientWidth"
        assert browser.run(wide) == 0
        focused = []
        for _ in range(4):
            browser.press(KEYS["tab"])
            focused.append(browser.run("const e = document.activeElement; return e.id || e.className"))
        assert focused == ["skip", "pause", "find", "scroll"]
        browser.run("document.querySelector('#pause').focus()")
        browser.press(KEYS["space"])
        assert browser.run("return document.querySelector('#pause').getAttribute('aria-pressed')") == "true"
        browser.run("document.querySelector('#find').focus()")
        browser.press("-17")
        assert browser.run("return document.querySelectorAll('#rows tr').length") == 1
        assert browser.text("#more") == "1 of 30 groups"


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_in_both_schemes(browser: Browser, scheme: str) -> None:
    """Contrast of text on its ground is at least 4.5 (WCAG AA)."""
    node = Told()
    node.groups_said = [group("S", "leader", lags=[["a", 3]])]
    with monitored(node) as url:
        browser.prefer(scheme)
        browser.open(url)
        browser.until("return document.querySelector('#rows tr') !== null")
        worst = browser.run(
            """
            const channel = (v) => ((v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
            const light = (c) => 0.2126 * channel(c[0]) + 0.7152 * channel(c[1]) + 0.0722 * channel(c[2]);
            const parts = (text) => text.match(/[0-9.]+/g).map(Number);
            const ground = (e) => {
              for (; e; e = e.parentElement) {
                const c = parts(getComputedStyle(e).backgroundColor);
                if (c.length < 4 || c[3] === 1) return c;
              }
              return [255, 255, 255];
            };
            return [...document.querySelectorAll('body *')]
              .filter((e) => e.offsetParent)
              .filter((e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim()))
              .map((e) => {
                const both = [light(parts(getComputedStyle(e).color)), light(ground(e))];
                return [(Math.max(...both) + 0.05) / (Math.min(...both) + 0.05), e.textContent];
              }).sort((x, y) => x[0] - y[0])[0];
            """
        )
        assert worst[0] >= 4.5, worst
