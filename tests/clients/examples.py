"""Examples of nats-py, as they are: what each must print.

They are not kept here. Their directory is `examples` of https://github.com/nats-io/nats.py; those that end by
themselves are run. Most name the address that they connect to, so the nodes listen where these look for them.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Final

CLIENT_PORTS: Final = (4222, 4223, 4224)
"""Where the examples look for servers."""
PRINTED: Final = {
    "advanced.py": ("Response: ", "I can help!"),
    "basic.py": ("'foo ': World", "'bar ': Second", "Received response: I can help"),
    "client.py": ("[Received on 'discover']: world", "[Response]: b'I can help!'", "Disconnected."),
    "clustered.py": ("Got message:  help.999", "Duration: "),
    "context-manager.py": ("Received: ", "Connection to NATS is closed."),
    "drain-sub.py": ("Received 100 responses!",),
    "jetstream.py": ("QSUB ", "All data in stream: 280"),
    "kv.py": ("key=hello, value=b'world'", "Filtered Keys: ['hello', 'greetings', 'greeting']"),
    "simple.py": ("Hello from Python!",),
    "wildcard.py": ("'foo.bar.baz ': Hello World",),
}
"""By file. One ends with a traceback, with nats-server too: what they print before that counts."""
NOT_PRINTED: Final = ("Timeout", "timed out", "There was an error", "!!!!!")


def run_examples(directory: Path, seconds: float) -> int:
    """Run what the directory has of them, one after the other; 0 if all printed what they must."""
    wrong: list[str] = []
    scripts = [directory / name for name in PRINTED if (directory / name).exists()]
    for script in scripts:
        command = [sys.executable, "-W", "ignore", str(script)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=seconds, check=False)
        missing = [text for text in PRINTED[script.name] if text not in done.stdout]
        unwanted = [text for text in NOT_PRINTED if text in done.stdout]
        if missing or unwanted:
            wrong.append(f"{script.name}: {missing=} {unwanted=} of\n{done.stdout}{done.stderr}")
    print(*wrong, f"{len(scripts) - len(wrong)} of {len(scripts)} examples passed", sep="\n")
    return 1 if wrong or not scripts else 0
