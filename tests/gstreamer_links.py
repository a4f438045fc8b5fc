"""The GStreamer example, for Debian's Python, as tests/python_peer.py has aiortc's: a link for each line."""

import json
import runpy
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).parent.parent
sys.path.insert(0, str(ROOT))
EXAMPLE = runpy.run_path(str(ROOT / "docs/examples/gstreamer_peer.py"))


def link(server, says, **options):
    peer = EXAMPLE["Peer"]([])
    EXAMPLE["connect"](server, offer=peer.offer, answer=peer.answer, link=peer.link, **options)
    for _ in range(100):
        peer.say(says)
        time.sleep(0.1)


for line in sys.stdin:
    threading.Thread(target=link, kwargs=json.loads(line), daemon=True).start()
