"""The examples for GStreamer and Pion, run as their heads say. tests/test_matrix.py links them with all."""

from __future__ import annotations

import asyncio
import runpy
from pathlib import Path
from typing import Any

import aioice.ice
import pytest

from live import ROOT, Server
from network import network
from python_peer import peer, until_waiting
from stacks import build_pion

GSTREAMER = ("/usr/bin/python3", ROOT / "docs/examples/gstreamer_peer.py")
PATIENCE = 60


@pytest.fixture(scope="module")
def pion(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_pion(tmp_path_factory.mktemp("pion"))


@pytest.mark.parametrize("waits", ["GStreamer", "Pion"])
def test_they_link_with_each_other_and_hear_a_goodbye(pion: Path, waits: str) -> None:
    with network(), Server() as server:
        programs: dict[str, tuple[str | Path, ...]] = {"GStreamer": GSTREAMER, "Pion": (pion,)}
        (comes,) = programs.keys() - {waits}
        with peer(*programs[waits], server.url, "robots") as first:
            until_waiting(server)
            with peer(*programs[comes], server.url, "robots") as second:
                first.until("linked, as the initiator", f"hello from {comes}")
                second.until("linked, as the responder", f"hello from {waits}")
                second.interrupt()
                first.ends()


@pytest.mark.parametrize("name", ["GStreamer", "Pion"])
def test_one_that_is_interrupted_leaves_the_pool(pion: Path, name: str) -> None:
    program = GSTREAMER if name == "GStreamer" else (pion,)
    with network(), Server() as server, peer(*program, server.url, "robots") as alone:
        until_waiting(server)
        alone.stop()
        server.until(waiting=0)


def test_a_cameras_picture_arrives() -> None:
    example = runpy.run_path(str(ROOT / "docs/examples/aiortc_peer.py"))
    pictures: list[Any] = []

    async def run(url: str) -> None:
        viewer = example["Peer"]([])
        answer = viewer.answer

        async def watch(offer: str, within: float) -> Any:
            begin = viewer.begin

            async def begin_and_watch() -> None:
                await begin()
                viewer.connection.on("track", pictures.append)

            viewer.begin = begin_and_watch
            return await answer(offer, within)

        callbacks = {"offer": viewer.offer, "answer": watch, "link": viewer.link}
        async with asyncio.timeout(PATIENCE):
            exchange = await example["connect_async"](url, **callbacks, namespace="camera")
            assert exchange.role == "responder"
            assert pictures, exchange.offer
            frame = await pictures[0].recv()
        assert (frame.width, frame.height) == (320, 240)
        await viewer.close()

    before = aioice.ice.Connection.get_component_candidates.__defaults__, aioice.ice.CONSENT_INTERVAL
    try:
        with network(), Server() as server, peer(*GSTREAMER, server.url, "camera", "--video") as camera:
            until_waiting(server)
            asyncio.run(run(server.url))
            camera.ends()
    finally:
        aioice.ice.Connection.get_component_candidates.__defaults__, aioice.ice.CONSENT_INTERVAL = before
