"""A peer in Node whose path breaks. resume.py tries more."""

from __future__ import annotations

import time

from resume import Lab


def test_node_notices_by_itself_that_its_network_card_has_gone() -> None:
    """node-datachannel says nothing for 13 s."""
    with Lab("node-datachannel", "chromium") as lab:
        lab.link(namespace="friends")
        back = lab.lose("swap")
        assert lab.homes[0].until("state", "interrupted") - back < 5
        lab.talk()
        assert time.time() - back < 12
        assert all(home.keeps_its_link for home in lab.homes)


def test_a_webrtc_that_keeps_no_certificate_waits_for_the_old_path() -> None:
    with Lab("@roamhq/wrtc", "chromium") as lab:
        lab.link(namespace="friends")
        lab.world.cut("a", 0)
        for home in lab.homes:
            home.until("state", "interrupted")
        time.sleep(1)  # without a certificate it would give up at once
        lab.world.mend("a", 0)
        lab.talk()
        assert all(home.keeps_its_link for home in lab.homes)
        assert not any(what == "resumed" for home in lab.homes for _, what, *_ in home.seen)
