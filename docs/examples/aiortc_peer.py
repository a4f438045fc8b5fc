"""Link aiortc with whoever comes: a browser tab, Node, another of these. Say hello, and print what is heard.

PYTHONPATH=. python docs/examples/aiortc_peer.py http://127.0.0.1:8000/ chess

A link that is lost is made again with the same peer. The program ends when the other side says goodbye.
"""

import asyncio
import contextlib
import json
import secrets
import sys

import aioice.ice
from aiortc import RTCCertificate, RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription

from signal_server.client import BadSignal, LinkLost, connect_async, ice_servers

GATHER = 1.5  # seconds that a STUN or TURN server may take to answer
OPEN = 10  # seconds until a link must be open
RESUME = 60  # seconds in which a lost link may come back

aioice.ice.CONSENT_INTERVAL = 1  # a lost path is noticed after 6 s, and not after 30


def settle(future, result):
    if not future.done():
        future.set_result(result)


def is_connected(connection):
    """False if the path ended before the channel on it, and no goodbye was heard."""
    transport = connection.sctp and connection.sctp.transport
    return transport is not None and transport.state == "connected"


class Peer:
    """One end of a link: a connection of its own for each offer and each answer, until one opens.

    Args:
        hear: called with each message.
    """

    def __init__(self, ice_servers, hear=print):
        self.hear = hear
        # Named even if there are none, or aiortc would ask a third party's STUN server.
        self.configuration = RTCConfiguration([RTCIceServer(**each) for each in ice_servers])
        self.certificate = RTCCertificate.generateCertificate()  # by which the other side knows us again
        self.id = secrets.token_hex(16)
        self.connection = None

    async def offer(self):
        await self.begin()
        self.use(self.connection.createDataChannel("spacerift"))
        return await self.signal(await self.connection.createOffer(), GATHER)

    async def answer(self, offer, within):
        await self.begin()
        self.connection.on("datachannel", self.use)
        await self.apply(offer)
        return await self.signal(await self.connection.createAnswer(), min(GATHER, within / 2))

    async def link(self, exchange):
        if exchange.role == "initiator":
            await self.apply(exchange.answer)
        with contextlib.suppress(TimeoutError):
            if await asyncio.wait_for(self.opened, OPEN):
                return
        raise LinkLost

    async def begin(self):
        if self.connection:
            await self.connection.close()
        connection = self.connection = RTCPeerConnection(self.configuration)
        connection._RTCPeerConnection__certificates = [self.certificate]  # there is no option for it
        self.opened, self.was_lost = (asyncio.get_running_loop().create_future() for _ in range(2))
        opened = self.opened
        connection.on(
            "connectionstatechange",
            lambda: settle(opened, False) if connection.connectionState in ("failed", "closed") else None,
        )

    def use(self, channel):
        self.channel = channel
        channel.on("message", self.hear)
        opened, was_lost, connection = self.opened, self.was_lost, self.connection
        channel.on("open", lambda: settle(opened, True))
        channel.on("close", lambda: settle(was_lost, not is_connected(connection)))
        if channel.readyState == "open":
            settle(opened, True)

    async def signal(self, description, gather):
        # How long aioice waits for a STUN server is the default of a parameter (5 s), and no option.
        aioice.ice.Connection.get_component_candidates.__defaults__ = (gather,)
        await self.connection.setLocalDescription(description)  # and gather candidates
        description = self.connection.localDescription
        if "a=candidate" not in description.sdp:
            raise LinkLost("there is no network")
        return json.dumps({"type": description.type, "sdp": description.sdp, "id": self.id})

    async def apply(self, signal):
        try:
            signal = json.loads(signal)
            sdp, kind = signal["sdp"], signal["type"]
            # Firefox says that its candidates end, all of them names: without more to come, aioice gives up.
            sdp = sdp.replace("a=end-of-candidates\r\n", "")
            # GStreamer's RSA certificate and our ciphers fit only if we are the server of DTLS.
            sdp = sdp.replace("a=setup:actpass", "a=setup:active")
            await self.connection.setRemoteDescription(RTCSessionDescription(sdp, kind))
        except Exception as error:  # a stranger sent it: anything may be wrong with it
            raise BadSignal from error

    async def close(self):
        if self.connection:
            if self.opened.done() and self.opened.result():
                self.channel.close()  # a goodbye: without it the other side would try to come back
                while self.channel.readyState == "closing" and self.connection.connectionState == "connected":
                    await asyncio.sleep(0.01)
            await self.connection.close()


async def main(url, namespace=None, **options):
    peer = Peer(await asyncio.to_thread(ice_servers, url), lambda words: print(words, flush=True))
    options |= {"offer": peer.offer, "answer": peer.answer, "link": peer.link}
    try:
        exchange = await connect_async(url, namespace=namespace, **options)
        while True:
            print("linked, as the", exchange.role, flush=True)
            peer.channel.send("hello from aiortc")
            if not await peer.was_lost:
                break
            print("interrupted", flush=True)
            async with asyncio.timeout(RESUME):
                exchange = await connect_async(url, resume=exchange, **options)
    finally:
        await peer.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(main(*sys.argv[1:]))
