"""Bugs that only whole nodes can show, each as an edit of the product, for the actor tier."""

from __future__ import annotations

from .plant import Bug, Edit
from .plant import bug as planted

WITHIN = 100
"""Seeds: so many are looked at before a bug counts as missed."""


def bug(name: str, where: str, old: str, new: str) -> Bug:
    return planted(name, where, old, new, within=WITHIN, by="actor")


def bugs(name: str, *edits: tuple[str, str, str]) -> Bug:
    return Bug(name, tuple(Edit(*each) for each in edits), WITHIN, "actor")


STREAMS = (
    bug(
        "the duplicate window is not in a stream's snapshot",
        "actors.stream.machine:StreamMachine.capture",
        '"duplicates": self._duplicates.pack(),',
        '"duplicates": b"",',
    ),
    bug(
        "the consumers are not in a stream's snapshot",
        "actors.stream.machine:StreamMachine.capture",
        '"consumers": self.consumers.pack(),',
        '"consumers": {},',
    ),
    bug(
        "what expires expires by the replica's clock, not by the entry's stamp",
        "actors.stream.machine:StreamMachine.apply",
        "self.clock = max(self.clock, batch.header.time)",
        "self.clock = 1_800_000_000 * 10**9 + int(__import__('trio').current_time() * 1e9)",
    ),
    bug(
        "a duplicate is stored again where the first was dropped",
        "actors.stream.duplicates:Duplicates.get",
        "return self._known.get(message_id)",
        "return self._known.get(message_id) if len(self._known) < 5 else None",
    ),
    bug(
        "a record that is damaged is passed over",
        "actors.stream.store:MessageStore._read_many",
        "found[sequence] = self.damage.check(piece, block, sequence - block.first)",
        "with __import__('contextlib').suppress(DamagedRecord): "
        "found[sequence] = self.damage.check(piece, block, sequence - block.first)",
    ),
    bugs(
        "blocks are not cut to their manifest, and what is replayed goes behind what is there",
        ("storage.group_directory:_cut", "disk.truncate(descriptor, file.length)", "pass"),
        (
            "storage.group_directory:GroupDirectory.write",
            "self.disk.pwritev(self.open.get(path, write=True), buffers, offset)",
            "descriptor = self.open.get(path, write=True); "
            "self.disk.pwritev(descriptor, buffers, self.disk.size(descriptor))",
        ),
    ),
)

DELIVERY = (
    bugs(
        "messages are sent before their delivery is in the log",
        (
            "actors.delivery.stream:StreamDelivery._deliver",
            "first = await self._note(led, sequences)\n        if first is not None:\n"
            "            self._send(led, picks, messages, first)",
            "self._send(led, picks, messages, led.consumer.delivered.consumer + 1)\n"
            "        await self._note(led, sequences)",
        ),
        (
            "actors.delivery.stream:StreamDelivery._send",
            "if known is None:\n                continue  # acknowledged while it was on its way\n"
            "            count = known.count\n",
            "count = 1 if known is None else known.count + 1\n",
        ),
    ),
    bug(
        "an acknowledgement is answered before it is in the log",
        "actors.delivery.stream:StreamDelivery._propose_acks",
        "self.group.propose(chunk, partial(self._acknowledged, acknowledged, answers), self.term)",
        "self.group.propose(chunk, lambda outcome: None, self.term); "
        "self._acknowledged(acknowledged, answers, Applied(0))",
    ),
    bug(
        "an acknowledgement whose end is unknown is answered",
        "actors.delivery.stream:StreamDelivery._acknowledged",
        "if isinstance(outcome, Applied):",
        "if True:",
    ),
    bug(
        "a new leader does not deliver again what the old one had delivered",
        "actors.delivery.led:LedConsumer.take_over",
        "for sequence, pending in self.consumer.pending.items():",
        "for sequence, pending in ():",
    ),
    bug(
        "picks that did not go out are forgotten",
        "actors.delivery.stream:StreamDelivery._deliver",
        "led.give_back(picks)",
        "pass",
    ),
    bug(
        "deliveries of an earlier leadership go on in the next",
        "actors.delivery.desk:Deliveries.on_role",
        "if running is not None and not (group.leads and running[0].term == group.state.term):",
        "if running is not None and not group.leads and False:",
    ),
)

ROUTES = (
    bug(
        "what was lost on the way to its leader is called not applied",
        "actors.proposals:Proposals._lose",
        "self._in_flight.pop(number).done(Unknown(why))",
        "self._in_flight.pop(number).done(NotApplied(why))",
    ),
    bug(
        "a publish whose end is unknown is told as not stored",
        "actors.gateway.publishing:Publishing._failure",
        "return UNKNOWN",
        "return BUSY",
    ),
    bug(
        "a message is read without asking whether this is still the leader",
        "actors.api:ApiDesk.read_barrier",
        "await hosted.read_barrier()",
        "pass",
    ),
    bugs(
        "a reader takes the answer to a question that was on its way before it came",
        (
            "actors.reads:Reads._serve",
            "readers, self._waiting[number] = self._waiting[number], []\n"
            "        with trio.move_on_after(READ_SECONDS):  # by then these readers have given up\n"
            "            index = await self._ask(number)\n"
            "            for reader in readers:",
            "readers = []\n"
            "        with trio.move_on_after(READ_SECONDS):\n"
            "            index = await self._ask(number)\n"
            "            readers, self._waiting[number] = self._waiting[number], []\n"
            "            for reader in readers:",
        ),
    ),
    bug(
        "what a socket took in part is sent again from its beginning",
        "actors.peers.link:Link._flush",
        "self._queue.append(memoryview(piece)[sent:])",
        "self._queue.append(piece)",
    ),
    bugs(
        "what a broken connection had half sent goes on in the next",
        ("actors.peers.link:Link._up", "self._queue.clear()", "pass"),
        ("actors.peers.link:Link._down", "self._queue.clear()", "pass"),
        (
            "actors.peers.link:Link._send_rest",
            "parts, self._queue = self._queue, []\n"
            "            for piece in _gather(parts):\n"
            "                await stream.send_all(piece)\n"
            "                self._count(len(piece))",
            "piece = self._queue[0]\n"
            "            await stream.send_all(piece)\n"
            "            self._queue.pop(0)\n"
            "            self._count(len(piece))",
        ),
    ),
)

CLUSTER = (
    bug(
        "the replicas of a lost disk are not handed on to its heir",
        "actors.cluster.meta:MetaMachine._join",
        "self._hand_on(old.node, node)",
        "pass",
    ),
    bug(
        "a node that leaves is given replicas",
        "actors.cluster.meta_state:MetaState.staying",
        "return [node for node in self.nodes if node not in self.leaving]",
        "return list(self.nodes)",
    ),
    bug(
        "a node is removed while a group's log still counts on it",
        "actors.cluster.meta:MetaMachine._dismiss",
        "(*group.replicas, *group.settled)",
        "group.replicas",
    ),
    bug(
        "a restarted node deletes the groups that its meta log has not come to yet",
        "actors.cluster.hosting:Hosting.run",
        "caught_up = meta is not None and meta.applier.applied >= group.incarnation",
        "caught_up = True",
    ),
    bugs(
        "a deleted group's number and directory are used again",
        (
            "actors.cluster.meta:MetaMachine._assign",
            "group = self.state.next_group",
            "group = max(self.state.groups, default=1) + 1",
        ),
        (
            "storage.group_directory:group_directory",
            'return f"{GROUPS}/{group}-{incarnation}"',
            'return f"{GROUPS}/{group}-0"',
        ),
    ),
    bug(
        "a replica that moved away forgets what it promised",
        "actors.groups:Groups.release",
        "self._dormant[dormant.group] = replace(dormant, released=True)",
        "self.forget(dormant)",
    ),
    bug(
        "a snapshot's transfer sends again what is there already",
        "actors.replica.snapshots:Snapshots._send",
        "for offset in range(resume[number], file.length, PART_BYTES):",
        "for offset in range(0, file.length, PART_BYTES):",
    ),
    bug(
        "a snapshot's transfer takes over files of an earlier one without a look",
        "storage.incoming:Incoming._recall",
        "if name and await self._has_come(name, entry):",
        "if name:",
    ),
    bug(
        "a snapshot that came is applied from the batch behind the next one",
        "actors.replica.snapshots:Snapshots._finish",
        "group.skip_to(local.index)",
        "group.skip_to(local.index + 1)",
    ),
)

NODE_BUGS: tuple[Bug, ...] = (*STREAMS, *DELIVERY, *ROUTES, *CLUSTER)
