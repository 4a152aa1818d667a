"""A durable stream without a server beside your program: publish and read back in process.

python examples/embedded_stream.py [DIRECTORY]
"""

import sys
import tempfile
from pathlib import Path

import trio

from trimaran import Options, open_node, open_stream


async def publish_and_read(directory: Path) -> list[bytes]:
    """Store three orders (one of them sent twice) and read them back by sequence."""
    async with open_node(Options(data=directory, listen="127.0.0.1:0")) as node:
        orders = await open_stream(node, "ORDERS", ["orders.>"])
        for number in (1, 2, 2, 3):
            stored = await orders.publish("orders.new", f"order {number}".encode(), msg_id=f"order-{number}")
            print(f"order {number}: sequence {stored.sequence}{' (a duplicate)' if stored.duplicate else ''}")
        messages = [await orders.get(sequence) for sequence in (1, 2, 3)]
        return [message.payload for message in messages if message is not None]


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as scratch:
        where = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(scratch)
        print(trio.run(publish_and_read, where))
