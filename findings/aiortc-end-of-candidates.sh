#!/usr/bin/env bash
# aiortc gives a link up at once if an offer has nothing but .local names that it cannot resolve and says that no
# more candidates follow, as Firefox's does: its answer then has no candidate of its own. Without that one line the
# link opens, because the offerer's checks tell aiortc the address. One would guess that a line that only says
# "these were all" changes nothing.
#
# Needs root, iproute2 and util-linux (for a network namespace with an interface), and python3 with venv.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/pip" install -q aiortc==1.16.0 aioice==0.13.0
cat >"$folder/seen.py" <<'PYTHON'
import asyncio
import importlib.metadata

from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription

END = "a=end-of-candidates\r\n"
LOCAL = "a=candidate:0 1 UDP 2122252543 0d04e6c9-4e7b-4d4b-9b0e-a8a7a8b5f0ec.local 50000 typ host\r\n"


async def link(says_end):
    """Link two in this process. The offer's candidates are replaced by one name that nobody can resolve."""
    alice, bob = (RTCPeerConnection(RTCConfiguration(iceServers=[])) for _ in range(2))
    states = []
    bob.on("iceconnectionstatechange", lambda: states.append(bob.iceConnectionState))
    channel = alice.createDataChannel("x")
    opened = asyncio.Event()
    channel.on("open", opened.set)
    await alice.setLocalDescription(await alice.createOffer())
    lines = alice.localDescription.sdp.splitlines(keepends=True)
    first = next(number for number, line in enumerate(lines) if line.startswith("a=candidate"))
    kept = [line for line in lines if not line.startswith("a=candidate") and line != END]
    sdp = "".join([*kept[:first], LOCAL, *([END] if says_end else []), *kept[first:]])
    await bob.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
    await bob.setLocalDescription(await bob.createAnswer())
    await alice.setRemoteDescription(bob.localDescription)
    try:
        await asyncio.wait_for(opened.wait(), 8)
    except TimeoutError:
        pass
    result = opened.is_set(), bob.localDescription.sdp.count("a=candidate"), states
    await alice.close()
    await bob.close()
    return result


async def main():
    print("aiortc", importlib.metadata.version("aiortc"), "aioice", importlib.metadata.version("aioice"))
    seen = {}
    for says_end in (False, True):
        opened, candidates, states = await link(says_end)
        seen[says_end] = opened, candidates > 0
        words = "with" if says_end else "without"
        print(f"{words} a=end-of-candidates: opened: {opened}, candidates in the answer: {candidates}, ICE: {states}")
    assert seen == {False: (True, True), True: (False, False)}, "it behaves otherwise now"


asyncio.run(main())
PYTHON
unshare --net bash -euc '
    ip link set lo up
    ip link add nic0 type veth peer name nic1
    ip address add 10.99.0.2/24 dev nic0
    ip link set nic0 up
    ip link set nic1 up
    "$0/venv/bin/python" "$0/seen.py"' "$folder"
