"""Link aiortc with whoever comes: a browser tab, Node, another of these. Say hello, and print what is heard.

PYTHONPATH=. python docs/examples/aiortc_peer.py http://127.0.0.1:8000/ chess
"""

import asyncio
import json
import secrets
import sys
import urllib.request

from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription

from signal_server.client import BadSignal, LinkLost, connect_async


class Peer:
    """One end of a link: a connection of its own for each offer and each answer, until one opens."""

    def __init__(self, ice_servers):
        # Named even if there are none, or aiortc would ask a third party's STUN server.
        self.configuration = RTCConfiguration([RTCIceServer(**each) for each in ice_servers])
        self.id = secrets.token_hex(16)
        self.connection = None

    async def offer(self):
        await self.begin()
        self.use(self.connection.createDataChannel("spacerift"))
        return await self.signal(await self.connection.createOffer())

    async def answer(self, offer):
        await self.begin()
        self.connection.on("datachannel", self.use)
        await self.apply(offer)
        return await self.signal(await self.connection.createAnswer())

    async def link(self, exchange):
        if exchange.role == "initiator":
            await self.apply(exchange.answer)
        try:
            await asyncio.wait_for(self.opened.wait(), 10)
        except TimeoutError:
            raise LinkLost from None

    async def begin(self):
        if self.connection:
            await self.connection.close()
        self.connection = RTCPeerConnection(self.configuration)
        self.opened, self.heard = asyncio.Event(), asyncio.Queue()

    def use(self, channel):
        self.channel = channel
        channel.on("message", self.heard.put_nowait)
        channel.on("open", self.opened.set)
        if channel.readyState == "open":
            self.opened.set()

    async def signal(self, description):
        await self.connection.setLocalDescription(description)  # and gather candidates
        description = self.connection.localDescription
        return json.dumps({"type": description.type, "sdp": description.sdp, "id": self.id})

    async def apply(self, signal):
        try:
            signal = json.loads(signal)
            await self.connection.setRemoteDescription(RTCSessionDescription(signal["sdp"], signal["type"]))
        except Exception as error:  # a stranger sent it: anything may be wrong with it
            raise BadSignal from error


async def main(url, namespace=None, **options):
    with urllib.request.urlopen(url.rstrip("/") + "/ice") as response:
        peer = Peer(json.load(response)["iceServers"])
    callbacks = {"offer": peer.offer, "answer": peer.answer, "link": peer.link}
    exchange = await connect_async(url, **callbacks, namespace=namespace, **options)
    peer.channel.send("hello from aiortc")
    print(exchange.role, await peer.heard.get(), sep=": ", flush=True)
    while peer.channel.readyState == "open" and peer.channel.bufferedAmount:
        await asyncio.sleep(0.01)  # or what we said would be dropped
    await peer.connection.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
