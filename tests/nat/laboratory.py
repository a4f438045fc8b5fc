"""Two homes behind NATs of any kind and a world between them, made of network namespaces.

    with Laboratory() as lab:
        lab.put("a", "home router")
        lab.put("b", "symmetric")
        lab.run("home-a", "ping -c 1 203.0.113.10")

Each side has a client (`home`), its router, and its carrier; the servers live in `world`:

    home-a ── router-a ── carrier-a ──┐
      └─ a second interface           world: 203.0.113.10, 203.0.113.11, 2001:db8::10, 2001:db8::11
    home-b ── router-b ── carrier-b ──┘
      └─ a second interface, to router-a: it may be in A's home, too

Nothing in it has a way to the outside. It needs root, nftables, conntrack and iproute2.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import re
import socket
import subprocess
import threading
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, TypeVar

from long_cable import LongCable, open_tap

SERVER, OTHER = "203.0.113.10", "203.0.113.11"
SERVER_V6, OTHER_V6 = "2001:db8::10", "2001:db8::11"
CLONE_NEWNET = 0x40000000
Result = TypeVar("Result")


class Side(NamedTuple):
    """The addresses of one side. `public` is a /26 behind its router, for clients without NAT."""

    number: int
    carrier: str
    link: str
    public: str

    @property
    def wan(self) -> str:
        """The router's address outside."""
        return f"{self.link}{self.number * 4 - 2}"

    @property
    def gateway(self) -> str:
        """The carrier's address towards the router."""
        return f"{self.link}{self.number * 4 - 3}"


SIDES = {
    "a": Side(1, "203.0.113.101", "198.51.100.", "198.51.100.128"),
    "b": Side(2, "203.0.113.102", "198.51.100.", "198.51.100.192"),
}
PORTS = {"a": "20000-39999", "b": "40000-60999"}
"""From which a client takes its ports, so that a router with hairpin knows whose they are."""

FIREWALL = """
table inet firewall {
    chain input {
        type filter hook input priority filter; policy drop;
        ct state established,related accept
        iifname != "wan" accept
        meta l4proto { icmp, ipv6-icmp } accept
    }
    chain forward {
        type filter hook forward priority filter; policy drop;
        ct state established,related accept
        iifname != "wan" accept
    }
}"""
MASQUERADE = """
table inet nat {
    chain out {
        type nat hook postrouting priority srcnat;
        oifname "wan" masquerade HOW
    }
}"""
FULL_CONE = """
table inet nat {
    chain in {
        type nat hook prerouting priority dstnat;
        iifname "wan" udp dport 1024-65535 dnat ip to 192.168.NUMBER.2
    }
}"""
ISOLATION = FIREWALL.replace(
    'iifname != "wan" accept\n    }\n}',
    'ct status dnat accept\n        iifname != "wan" oifname "wan" accept\n    }\n}',
)
HAIRPIN = """
table inet nat {
    chain in {
        type nat hook prerouting priority dstnat;
        iifname != "wan" ip daddr WAN udp dport PORTS_A dnat ip to 192.168.1.2
        iifname != "wan" ip daddr WAN udp dport PORTS_B dnat ip to 192.168.9.2
    }
    chain out {
        type nat hook postrouting priority srcnat;
        oifname != "wan" ct status dnat snat ip to WAN
    }
}"""
NO_UDP = """
table inet firewall {
    chain forward {
        type filter hook forward priority filter;
        meta l4proto udp drop
        iifname "lan" tcp dport != { 80, 443 } reject with tcp reset
    }
}"""
PLAIN = MASQUERADE.replace("HOW", "")
RANDOM = MASQUERADE.replace("HOW", "fully-random")


class Kind(NamedTuple):
    """What lies between a client and the world: whence its addresses come, and two rulesets of nftables."""

    addresses: str
    router: str = ""
    carrier: str = ""


KINDS = {
    "public": Kind("public"),
    "firewall": Kind("public", FIREWALL),
    "full cone": Kind("private", PLAIN + FULL_CONE),
    "home router": Kind("private", FIREWALL + PLAIN),
    "open masquerade": Kind("private", PLAIN),
    "symmetric": Kind("private", FIREWALL + RANDOM),
    "double": Kind("private", FIREWALL + PLAIN, FIREWALL + PLAIN),
    "no UDP": Kind("private", NO_UDP + PLAIN),
    "IPv6": Kind("IPv6"),
    "IPv6 firewall": Kind("IPv6", FIREWALL),
    "NAT66": Kind("NAT66", FIREWALL + PLAIN),
    # Two of one network: A's own router, and B in A's home.
    "one LAN": Kind("shared", FIREWALL + PLAIN),
    "isolated": Kind("isolated", ISOLATION + PLAIN),
    "isolated, hairpin": Kind("isolated", ISOLATION + PLAIN + HAIRPIN),
}


class Laboratory:
    """The namespaces, from `__enter__` to `__exit__`. Each process may have one.

    Args:
        delays: the cables between the carriers and the world are such that `delay` can make long.
    """

    def __init__(self, *, delays: bool = False) -> None:
        self.prefix = f"rift{os.getpid()}-"
        self._delays = delays
        self._cables: dict[str, LongCable] = {}
        self._addresses: dict[str, str] = {}

    # --- to build and to take down ---

    def __enter__(self) -> Laboratory:
        remove_abandoned()
        try:
            self._build()
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        for cable in self._cables.values():
            cable.close()
        for path in namespaces():
            if path.name.startswith(self.prefix):
                subprocess.run(["ip", "netns", "del", path.name], check=False)

    def _build(self) -> None:
        names = ["world", *(f"{role}-{side}" for side in SIDES for role in ("carrier", "router", "home"))]
        for name in names:
            shell(f"ip netns add {self.prefix}{name}")
            # Without duplicate address detection an IPv6 address is there at once.
            settings = (
                "net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1 net.ipv6.conf.default.accept_dad=0"
            )
            settings += " net.ipv4.conf.all.send_redirects=0 net.ipv4.conf.default.send_redirects=0"
            self.run(name, f"ip link set lo up; sysctl -qw {settings}")
        self.run("world", "ip link add br0 type bridge; ip link set br0 up")
        for address in (f"{SERVER}/24", f"{OTHER}/24", f"{SERVER_V6}/64", f"{OTHER_V6}/64"):
            self.run("world", f"ip addr add {address} dev br0")
        for name in SIDES:
            self._build_side(name)
        self.cable("home-b", "eth1", "router-a", "guest")
        self.run("router-a", "ip link set guest master lan up")

    def _build_side(self, name: str) -> None:
        side, router, carrier, home = SIDES[name], f"router-{name}", f"carrier-{name}", f"home-{name}"
        if self._delays:
            ends = [(carrier, "wan"), ("world", f"to-{name}")]
            self._cables[name] = LongCable(
                *(self.within(where, partial(open_tap, tap)) for where, tap in ends)
            )
        else:
            self.cable(carrier, "wan", "world", f"to-{name}")
        self.cable(router, "wan", carrier, "lan")
        self.cable(home, "eth0", router, "port0")
        self.cable(home, "spare", router, "port1")
        self.run("world", f"ip link set to-{name} master br0 up")
        self.run(router, "ip link add lan type bridge; ip link set lan up")
        self.run(router, "ip link set port0 master lan up; ip link set port1 master lan up")
        network, number = f"{side.public}/26", side.number
        self.run(
            carrier,
            f"""ip addr add {side.carrier}/24 dev wan; ip link set wan up
            ip addr add {side.gateway}/30 dev lan; ip link set lan up
            ip route add {network} via {side.wan}; ip route add default via {SERVER}
            ip addr add 2001:db8::10{number}/64 dev wan; ip addr add 2001:db8:{number}0::1/64 dev lan
            ip route add 2001:db8:{number}1::/64 via 2001:db8:{number}0::2
            ip route add default via {SERVER_V6}""",
        )
        self.run(
            router,
            f"""ip addr add {side.wan}/30 dev wan; ip link set wan up; ip route add default via {side.gateway}
            ip addr add 2001:db8:{number}0::2/64 dev wan; ip route add default via 2001:db8:{number}0::1""",
        )
        self.run(
            "world",
            f"""ip route add {side.gateway.rsplit(".", 1)[0]}.{number * 4 - 4}/30 via {side.carrier}
            ip route add {network} via {side.carrier}
            ip route add 2001:db8:{number}0::/64 via 2001:db8::10{number}
            ip route add 2001:db8:{number}1::/64 via 2001:db8::10{number}""",
        )
        first, last = PORTS[name].split("-")
        self.run(home, f"sysctl -qw net.ipv4.ip_local_port_range='{first} {last}'")

    def cable(self, one: str, interface: str, other: str, its_interface: str) -> None:
        """Lay a cable between two namespaces."""
        ends = f"{interface} netns {self.prefix}{one} type veth peer name {its_interface}"
        shell(f"ip link add {ends} netns {self.prefix}{other}")

    # --- what lies between a client and the world ---

    def put(self, name: str, kind: str) -> None:
        """Put one side behind a kind of NAT, and forget what was there: rules, mappings, addresses."""
        addresses, router, carrier = KINDS[kind]
        self.rule(f"router-{name}", "")
        self.rule(f"carrier-{name}", "")
        # A browser ends all requests when an address changes, so that is done only where it must be.
        if self._addresses.get(name) != addresses:
            self._address(name, addresses)
            self._addresses[name] = addresses
        if name == "b" and addresses in ("shared", "isolated"):
            return  # in A's home, behind A's router
        router = router.replace("NUMBER", str(SIDES[name].number)).replace("WAN", SIDES["a"].wan)
        router = router.replace("PORTS_A", PORTS["a"]).replace("PORTS_B", PORTS["b"])
        self.rule(f"router-{name}", router)
        self.rule(f"carrier-{name}", carrier)

    def _address(self, name: str, addresses: str) -> None:
        """Give a client and the inside of its router their addresses."""
        side, home, router = SIDES[name], f"home-{name}", f"router-{name}"
        number = side.number
        gateway, address, bits = {
            "public": (up(side.public, 1), up(side.public, 2), 26),
            "private": (f"192.168.{number}.1", f"192.168.{number}.2", 24),
            "IPv6": (f"2001:db8:{number}1::1", f"2001:db8:{number}1::2", 64),
            "NAT66": (f"fd00:{number}::1", f"fd00:{number}::2", 64),
            "shared": ("192.168.1.1", f"192.168.1.{number + 1}", 24),
            "isolated": ("192.168.1.1", "192.168.1.2", 24)
            if name == "a"
            else ("192.168.9.1", "192.168.9.2", 24),
        }[addresses]
        is_guest = name == "b" and addresses in ("shared", "isolated")
        self._unplug(home)
        if is_guest:
            inside = "nomaster" if addresses == "isolated" else "master lan"
            self.run("router-a", f"ip link set guest {inside}; ip addr flush dev guest scope global")
        if not is_guest or addresses == "isolated":
            where, device = ("router-a", "guest") if is_guest else (router, "lan")
            self.run(
                where, f"ip addr flush dev {device} scope global; ip addr add {gateway}/{bits} dev {device}"
            )
        self._plug(home, "eth1" if is_guest else "eth0", f"{address}/{bits}", gateway)

    def rule(self, namespace: str, ruleset: str) -> None:
        """Replace the rules of nftables, and forget all mappings."""
        self.run(namespace, "nft -f -", input=f"flush ruleset\n{ruleset}\n")
        self.forget(namespace)

    def forget(self, namespace: str) -> None:
        """Forget all mappings, as a router does that was restarted."""
        self.run(namespace, "conntrack -F 2>/dev/null")

    def delay(self, name: str, ms: float, *, to_server: float | None = None) -> None:
        """Let each packet between this side and the world take so long, one way.

        Args:
            to_server: ms of all that is not UDP, if they differ: the server is far away, the peers are near.
        """
        self._cables[name].delay(ms, ms if to_server is None else to_server)

    def other_mapping(self, name: str, kind: str) -> None:
        """Forget the mappings of this side; those in use get another port, the same for each peer."""
        home = f"192.168.{SIDES[name].number}.2"
        known = self.run(f"router-{name}", "conntrack -L -p udp 2>/dev/null")
        ports = sorted(set(re.findall(rf"src={home} dst=\S+ sport=(\d+)", known)))
        others = [
            f'oifname "wan" udp sport {port} masquerade to :{10_000 + int(port) % 10_000}' for port in ports
        ]
        ruleset = KINDS[kind].router.replace(
            'oifname "wan" masquerade', "\n".join([*others, 'oifname "wan" masquerade'])
        )
        self.rule(f"router-{name}", ruleset)

    def other_interface(self, name: str) -> None:
        """Take the client's interface down and bring another one up, with another address."""
        number = SIDES[name].number
        self._addresses.pop(name)
        self._unplug(f"home-{name}")
        self._plug(f"home-{name}", "spare", f"192.168.{number}.9/24", f"192.168.{number}.1")

    def _unplug(self, home: str) -> None:
        for interface in ("eth0", "spare", *(["eth1"] if home == "home-b" else [])):
            self.run(home, f"ip addr flush dev {interface} scope global; ip link set {interface} down")

    def _plug(self, home: str, interface: str, address: str, gateway: str) -> None:
        self.run(
            home,
            f"""ip link set {interface} up; ip addr add {address} dev {interface}
            ip route add default via {gateway}""",
        )

    # --- to do something there ---

    def run(self, namespace: str, script: str, **more: str) -> str:
        """Run a shell script there, and give what it prints."""
        command = [*self.command(namespace), "sh", "-ec", script]
        done = subprocess.run(command, text=True, capture_output=True, check=False, **more)  # type: ignore[call-overload]
        if done.returncode:
            raise RuntimeError(f"{namespace}: {script}: {done.stderr or done.stdout}")
        return str(done.stdout)

    def command(self, namespace: str) -> list[str]:
        """What to write before a command that shall run there."""
        return ["nsenter", f"--net=/run/netns/{self.prefix}{namespace}"]

    def within(self, namespace: str, function: Callable[[], Result]) -> Result:
        """Call a function in a thread that is there. A socket that it makes stays there."""
        results: list[Result] = []
        errors: list[BaseException] = []

        def enter() -> None:
            try:
                with open(f"/run/netns/{self.prefix}{namespace}") as file:
                    if ctypes.CDLL(None, use_errno=True).setns(file.fileno(), CLONE_NEWNET):
                        raise OSError(ctypes.get_errno(), "setns")
                results.append(function())
            except BaseException as error:  # noqa: BLE001 - the caller gets it
                errors.append(error)

        thread = threading.Thread(target=enter)
        thread.start()
        thread.join()
        if errors:
            raise errors[0]
        return results[0]

    def udp(self, namespace: str, address: str = "", port: int = 0) -> socket.socket:
        """A socket there, for datagrams of IPv4 or IPv6."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
            made.settimeout(0.3)
            made.bind((address, port))
            return made

        return self.within(namespace, make)


def up(address: str, number: int) -> str:
    """The address so many further on."""
    head, _, last = address.rpartition(".")
    return f"{head}.{int(last) + number}"


def shell(script: str) -> None:
    done = subprocess.run(["sh", "-ec", script], text=True, capture_output=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{script}: {done.stderr}")


def namespaces() -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from list(Path("/run/netns").iterdir())


def remove_abandoned() -> None:
    """Remove what a laboratory left behind whose process was killed."""
    for path in namespaces():
        found = re.fullmatch(r"rift(\d+)-.*", path.name)
        if found and not Path("/proc", found[1]).exists():
            subprocess.run(["ip", "netns", "del", path.name], check=False)
