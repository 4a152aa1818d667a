"""Test a state machine of your own in simulated clusters: crashes, partitions, snapshots, all from seeds.

    pytest test_my_state_machine.py

What is between the lines is yours to write; `pip install trimaran[testing]` brings pytest and Hypothesis.
Run a copy of this file beside your own tests: in Trimaran's checkout pytest reads Trimaran's settings, which
need `[test]`.
"""

import json

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule

from trimaran.testing.rules import ClusterRules

pytest_plugins = ["trimaran.testing.fixture"]

# ---------------------------------------------------------------------------------------------------------


class Stock:
    def __init__(self):
        self.items = {}

    def apply(self, entries, index, time):
        return [self.move(*json.loads(entry)) for entry in entries]

    def move(self, item, number):
        self.items[item] = self.items.get(item, 0) + number
        return self.items[item]

    def snapshot(self):
        return json.dumps(self.items, sort_keys=True).encode()

    def restore(self, state):
        self.items = json.loads(state)


# ---------------------------------------------------------------------------------------------------------


def test_stock(simulation):
    simulation(Stock, lambda random: json.dumps([random.choice("abc"), 1]).encode(), seeds=20)


class StockRules(ClusterRules):
    machine = Stock

    @rule(item=st.sampled_from("abc"), number=st.integers(-3, 3))
    def move(self, item, number):
        self.propose(json.dumps([item, number]).encode())


TestStock = StockRules.TestCase
TestStock.settings = settings(max_examples=10, deadline=None)
