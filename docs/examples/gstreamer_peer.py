"""Link GStreamer's webrtcbin with whoever comes: a browser tab, Node, another of these. Say hello and listen.

PYTHONPATH=. python3 docs/examples/gstreamer_peer.py http://127.0.0.1:8000/ chess

Debian's packages for it: python3-gi gir1.2-gst-plugins-bad-1.0 gstreamer1.0-plugins-bad
gstreamer1.0-plugins-good gstreamer1.0-nice

With --video the offer has a picture, too: a test card, or what `VIDEO` names, such as a camera's v4l2src.
"""

import contextlib
import json
import secrets
import sys
import threading
from urllib.parse import quote

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstSdp", "1.0")
gi.require_version("GstWebRTC", "1.0")
from gi.repository import Gst, GstSdp, GstWebRTC  # noqa: E402

from signal_server.client import BadSignal, LinkLost, connect, ice_servers  # noqa: E402

GATHER = 1.5  # seconds that a STUN or TURN server may take to answer
OPEN = 10  # seconds until a link must be open

# The caps at its end are what the offer is made of.
VIDEO = """videotestsrc is-live=true ! videoconvert ! vp8enc deadline=1 ! rtpvp8pay ! queue
    ! capsfilter caps=application/x-rtp,media=video,encoding-name=VP8,payload=96"""

KINDS = {"offer": GstWebRTC.WebRTCSDPType.OFFER, "answer": GstWebRTC.WebRTCSDPType.ANSWER}

Gst.init(None)


def tell(text):
    """Print a line in one piece: the pipeline's threads print, too."""
    print(f"{text}\n", end="", flush=True)


class Peer:
    """One end of a link: a pipeline of its own for each offer and each answer, until one opens.

    Args:
        hear: called with each text.
    """

    def __init__(self, ice_servers, hear=tell, video=None):
        self.ice_servers, self.hear, self.video = ice_servers, hear, video
        self.id = secrets.token_hex(16)
        self.pipeline = None

    def offer(self):
        self.begin(self.video)
        self.use(self.peer.emit("create-data-channel", "spacerift", None))
        return self.signal("offer", GATHER)

    def answer(self, offer, within):
        self.begin()
        self.peer.connect("on-data-channel", lambda _, channel: self.use(channel))
        self.apply(offer)
        return self.signal("answer", min(GATHER, within / 2))

    def link(self, exchange):
        if exchange.role == "initiator":
            self.apply(exchange.answer)
        if not self.opened.wait(OPEN):
            raise LinkLost

    def begin(self, video=None):
        if self.pipeline:
            self.pipeline.set_state(Gst.State.NULL)
        self.opened, self.closed, gathered = (threading.Event() for _ in range(3))
        self.gathered = gathered
        self.pipeline = Gst.Pipeline.new()
        self.peer = Gst.ElementFactory.make("webrtcbin")
        self.peer.set_property("bundle-policy", GstWebRTC.WebRTCBundlePolicy.MAX_BUNDLE)
        self.pipeline.add(self.peer)
        for server in self.ice_servers:
            for url in server["urls"]:
                self.know(*url.split(":", 1), server)
        if video:
            source = Gst.parse_bin_from_description(video, True)
            self.pipeline.add(source)
            source.link(self.peer)
        complete = GstWebRTC.WebRTCICEGatheringState.COMPLETE
        self.peer.connect(
            "notify::ice-gathering-state",
            lambda peer, _: peer.get_property("ice-gathering-state") == complete and gathered.set(),
        )
        self.pipeline.set_state(Gst.State.PLAYING)  # before a channel is made, or there is none

    def know(self, scheme, host, server):
        if scheme == "stun":
            self.peer.set_property("stun-server", f"stun://{host}")
        else:
            who = ":".join(quote(server[part], safe="") for part in ("username", "credential"))
            self.peer.emit("add-turn-server", f"{scheme}://{who}@{host}")

    def use(self, channel):
        self.channel, opened, closed = channel, self.opened, self.closed
        channel.connect("on-message-string", lambda _, text: self.hear(text))
        channel.connect("on-open", lambda _: opened.set())
        channel.connect("on-close", lambda _: closed.set())
        if channel.get_property("ready-state") == GstWebRTC.WebRTCDataChannelState.OPEN:
            opened.set()

    def signal(self, kind, gather):
        reply = self.ask(f"create-{kind}", None)
        # The reply owns the description: without a name for it, the description goes with it.
        self.ask("set-local-description", reply.get_value(kind))
        self.gathered.wait(gather)
        sdp = self.peer.get_property("local-description").sdp.as_text()
        return json.dumps({"type": kind, "sdp": sdp, "id": self.id})

    def apply(self, signal):
        try:
            signal = json.loads(signal)
            kind = KINDS[signal["type"]]
            result, message = GstSdp.SDPMessage.new_from_text(signal["sdp"])
            if result != GstSdp.SDPResult.OK:
                raise BadSignal
            self.ask("set-remote-description", GstWebRTC.WebRTCSessionDescription.new(kind, message))
        except (ValueError, KeyError, TypeError) as error:  # a stranger sent it
            raise BadSignal from error

    def ask(self, action, argument):
        promise = Gst.Promise.new()
        self.peer.emit(action, argument, promise)
        promise.wait()
        reply = promise.get_reply()
        if reply and reply.has_field("error"):
            raise BadSignal(str(reply.get_value("error")))
        return reply

    def say(self, text):
        self.channel.emit("send-string", text)

    def close(self):
        if self.pipeline:
            if self.opened.is_set():
                self.channel.emit("close")  # the pipeline's end alone is heard by nobody
                self.closed.wait(1)
            self.pipeline.set_state(Gst.State.NULL)


def main(url, namespace=None, *flags):
    peer = Peer(ice_servers(url), video=VIDEO if "--video" in flags else None)
    try:
        exchange = connect(url, offer=peer.offer, answer=peer.answer, link=peer.link, namespace=namespace)
        tell(f"linked, as the {exchange.role}")
        peer.say("hello from GStreamer")
        # A peer that is killed is never noticed here: a robot needs a heartbeat of its own.
        peer.closed.wait()
    finally:
        peer.close()


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main(*sys.argv[1:])
