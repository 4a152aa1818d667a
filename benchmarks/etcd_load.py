"""Put keys into etcd through gRPC, so many at a time, and print what came of it as JSON.

    python benchmarks/etcd_load.py HOST:PORT,... CONNECTIONS WINDOW SIZE WARM_UP SECONDS

The two fields of a PutRequest are encoded by hand: an address, 1 and 2, and a length before each.
"""

from __future__ import annotations

import json
import sys
import threading
import time

import grpc

PUT = "/etcdserverpb.KV/Put"
START_SECONDS = 30.0
KEYS = 10_000


def field(number: int, data: bytes) -> bytes:
    """One length-delimited protobuf field."""
    length, size = bytearray(), len(data)
    while size > 0x7F:
        length.append(size & 0x7F | 0x80)
        size >>= 7
    length.append(size)
    return bytes([number << 3 | 2]) + bytes(length) + data


class Generator:
    """Keeps `window` puts under way, spread over the channels."""

    def __init__(self, addresses: list[str], connections: int, window: int, size: int) -> None:
        # Without an own pool per channel, gRPC would share one connection between those to the same address.
        options = [("grpc.use_local_subchannel_pool", 1)]
        channels = [
            grpc.insecure_channel(addresses[number % len(addresses)], options)
            for number in range(connections)
        ]
        self.puts = [channel.unary_unary(PUT) for channel in channels]
        self.window = window
        self.value = field(2, b"x" * size)
        self.lock = threading.Lock()
        self.latencies: list[float] = []
        self.started = self.under_way = self.total = 0
        self.counting = False
        self.sending = True
        self.failed = ""
        self.idle = threading.Event()

    def wait_ready(self) -> None:
        """Return once every channel has put a key."""
        for put in self.puts:
            put(field(1, b"ready") + field(2, b""), timeout=START_SECONDS, wait_for_ready=True)

    def begin(self) -> None:
        for number in range(self.window):
            self.send(number % len(self.puts))

    def send(self, connection: int) -> None:
        with self.lock:
            self.started += 1
            self.under_way += 1
            key = field(1, b"key%d" % (self.started % KEYS))
        begun = time.perf_counter()
        call = self.puts[connection].future(key + self.value)
        call.add_done_callback(lambda ended: self.done(ended, connection, begun))

    def done(self, ended: grpc.Future, connection: int, begun: float) -> None:
        now = time.perf_counter()
        with self.lock:
            self.under_way -= 1
            if ended.exception() is not None:
                self.failed = str(ended.exception())
                self.sending = False
            else:
                self.total += 1
                if self.counting:
                    self.latencies.append(now - begun)
            if not self.sending:
                if not self.under_way:
                    self.idle.set()
                return
        self.send(connection)


def main() -> None:
    addresses = sys.argv[1].split(",")
    connections, window, size = (int(word) for word in sys.argv[2:5])
    warm_up, seconds = (float(word) for word in sys.argv[5:7])
    generator = Generator(addresses, connections, window, size)
    generator.wait_ready()
    generator.begin()
    time.sleep(warm_up)
    cpu, began = time.process_time(), time.perf_counter()
    generator.counting = True
    time.sleep(seconds)
    generator.counting = False
    cpu, took = time.process_time() - cpu, time.perf_counter() - began
    generator.sending = False
    generator.idle.wait(START_SECONDS)
    if generator.failed:
        raise SystemExit(generator.failed)
    latencies = sorted(generator.latencies)
    result = {
        "rate": len(latencies) / took,
        "p50": latencies[len(latencies) // 2] if latencies else 0.0,
        "p99": latencies[len(latencies) * 99 // 100] if latencies else 0.0,
        "total": generator.total,
        "generator_cpu": cpu / took,
    }
    sys.stdout.write(json.dumps(result) + "\n")


if __name__ == "__main__":
    main()
