"""The results as tables and as a plot, for docs/performance.md."""

from __future__ import annotations

import datetime
import platform
import re
from pathlib import Path
from typing import TYPE_CHECKING

from .measure import Rate

if TYPE_CHECKING:
    from .__main__ import Results

BEGIN, END = "<!-- measured by tests/bench -->", "<!-- end of what was measured -->"


def machine() -> str:
    """Date and machine, for the head of a table."""
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    models = [line.split(": ")[1].strip() for line in lines if line.startswith("model name")]
    return (
        f"{datetime.date.today().isoformat()}, {len(models)} virtual cores ({models[0]}), "
        f"Linux {platform.release().split('-')[0]}, Python {platform.python_version()}"
    )


def progress(name: str, at_once: int, kept: bool, rate: Rate) -> str:
    """One line while it runs."""
    shares = f"server {rate.server:.2f}, generator {rate.generator:.2f}, others {rate.others:.2f}"
    return (
        f"  {name}, {at_once} at once, {'kept' if kept else 'new'}: {rate.per_second:.0f}/s,"
        f" {rate.cpu_us:.0f} µs, p50 {rate.p50_ms:.2f} ms, p99 {rate.p99_ms:.2f} ms; cores: {shares}"
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    lines = [head, ["---", *["--:"] * (len(head) - 1)], *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def rate_table(results: Results, at_once: int) -> str:
    head = ["", "pairs/s, new", "µs of CPU", "p50 / p99 ms", "pairs/s, kept", "µs of CPU", "p50 / p99 ms"]
    rows = []
    for name in dict.fromkeys(name for name, _ in results.rates):
        row = [name]
        for kept in (False, True):
            rate = results.rates.get((name, (at_once, kept)))
            if rate is None:
                continue
            times = f"{rate.p50_ms:.2f} / {rate.p99_ms:.2f}"
            row += [f"{rate.per_second:,.0f}", f"{rate.cpu_us:,.0f}", times]
        if len(row) == len(head):
            rows.append(row)
    return table(head, rows)


def tables(results: Results) -> str:
    """Everything as Markdown."""
    generator = max(rate.generator for rate in results.rates.values())
    others = [rate.others for rate in results.rates.values()]
    parts = [
        f"{machine()}. The load generator used at most {generator:.2f} of its core, and other programs"
        f" {min(others):.2f} to {max(others):.2f} of one meanwhile.",
    ]
    for at_once in dict.fromkeys(at_once for _, (at_once, _) in results.rates):
        title = f"{at_once} pairs at once" if at_once > 1 else "One pair at a time"
        parts += [f"**{title}**", rate_table(results, at_once)]
    rows = [
        [
            name,
            f"{waiting:,}",
            f"{crowd.kib:.2f}",
            f"{crowd.upkeep * 100:.1f} %",
            f"{crowd.newcomer_p50_ms:.2f} / {crowd.newcomer_p99_ms:.2f}",
        ]
        for (name, waiting), crowd in results.crowds.items()
    ]
    head = ["", "waiting", "KiB for each", "upkeep, of a core", "newcomer's p50 / p99 ms"]
    parts += ["**Peers that wait**", table(head, rows)]
    if (found := results.inside) is not None:
        parts += [
            "**The rules, in process**",
            table(
                ["", ""],
                [
                    ["a match with 10 waiting, from CONNECT to DELIVERED", f"{found.few_us:.1f} µs"],
                    ["with 100,000 waiting", f"{found.many_us:.1f} µs"],
                    ["by a peer that has met nobody", f"{found.stranger_us:.1f} µs"],
                    ["by a peer that has met 700", f"{found.met_us:.1f} µs"],
                    ["memory of a remembered pair", f"{found.pair_bytes:.0f} bytes"],
                ],
            ),
        ]
    if results.redis:
        rows = [
            [
                f"{name}, {'kept' if kept else 'new'}",
                f"{rate.per_second:,.0f}",
                f"{rate.cpu_us:,.0f}",
                f"{beside:,.0f}",
                f"{rate.p50_ms:.2f} / {rate.p99_ms:.2f}",
            ]
            for (name, (_, kept)), (rate, beside) in results.redis.items()
        ]
        head = ["", "pairs/s", "µs of the worker", "µs of Redis", "p50 / p99 ms"]
        parts += ["**One worker with Redis, 64 pairs at once**", table(head, rows)]
    if results.wakes:
        rows = [
            [
                name,
                *(
                    f"{each[f'{what}_p50_ms']:.1f} / {each[f'{what}_p99_ms']:.1f}"
                    for what in ("answer", "delivered")
                ),
            ]
            for name, each in results.wakes.items()
        ]
        head = ["", "until the initiator has it, p50 / p99 ms", "until its sender has DELIVERED"]
        parts += ["**An answer between two workers with Redis, 200 pairs a second**", table(head, rows)]
    if results.signed:
        rows = [
            [f"{name}, {engine}", f"{rate:,.0f}", f"{ms:.2f}"]
            for (name, engine), (rate, ms) in results.signed.items()
        ]
        parts += [
            "**Signed pairs, 16 at once, connections kept** (the peers sign in Python)",
            table(["", "pairs/s", "ms of CPU"], rows),
        ]
    if results.forgeries:
        rows = [[engine, *(f"{ms:.1f}" for ms in p99)] for engine, p99 in results.forgeries.items()]
        head = ["", "alone, p99 ms", "beside 500 bad signatures a second"]
        parts += ["**One unsigned pair after the other**", table(head, rows)]
    if results.profiles:
        names = list(results.profiles)
        every = sorted(
            {part for each in results.profiles.values() for part in each},
            key=lambda part: -sum(each.get(part, 0) for each in results.profiles.values()),
        )
        rows = [[part, *(f"{results.profiles[name].get(part, 0):.0f}" for name in names)] for part in every]
        parts += [
            "**Where the microseconds of one pair go**",
            table(["µs of a pair", *(f"{name} connections" for name in names)], rows),
        ]
    return "\n\n".join(parts)


def plot(results: Results, path: Path) -> None:
    """Pairs a second, the CPU time of a pair and the memory of a waiting peer, as bars beside each other."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    pairs = [name for name in dict.fromkeys(name for name, _ in results.rates) if not name.startswith("N:")]
    figure, axes = pyplot.subplots(1, 3, figsize=(13, 4.2), layout="constrained")
    at_once = next(at_once for _, (at_once, _) in results.rates)
    titles = (f"pairs a second, {at_once} at once", f"µs of CPU for a pair, {at_once} at once")
    for axis, title, figure_of in zip(axes, titles, ("per_second", "cpu_us"), strict=False):
        for shift, kept, colour in ((0.2, False, "#2a6f97"), (-0.2, True, "#a9d6e5")):
            shown = [name for name in pairs if (name, (at_once, kept)) in results.rates]
            values = [getattr(results.rates[name, (at_once, kept)], figure_of) for name in shown]
            places = [len(pairs) - pairs.index(name) + shift for name in shown]
            label = "connections kept" if kept else "new connections"
            bars = axis.barh(places, values, 0.38, color=colour, label=label)
            axis.bar_label(bars, fmt="{:,.0f}", padding=3, fontsize=8)
        axis.set_yticks([len(pairs) - place for place in range(len(pairs))], pairs if axis is axes[0] else [])
        axis.set_title(title, fontsize=10)
        axis.margins(x=0.18)
    axes[0].legend(fontsize=8, loc="lower right")
    most = max(waiting for _, waiting in results.crowds)
    crowds = {name: crowd for (name, waiting), crowd in results.crowds.items() if waiting == most}
    bars = axes[2].barh(list(crowds), [crowd.kib for crowd in crowds.values()], color="#2a6f97")
    axes[2].bar_label(bars, fmt="{:.1f}", padding=3, fontsize=8)
    axes[2].invert_yaxis()
    axes[2].margins(x=0.18)
    axes[2].set_title(f"KiB for a waiting peer, {most:,} waiting", fontsize=10)
    for axis in axes:
        axis.spines[["top", "right"]].set_visible(False)
        axis.tick_params(labelsize=8)
    figure.savefig(path, dpi=110)
    pyplot.close(figure)


def write(results: Results, text: str, folder: Path) -> None:
    """Put the tables between their marks in performance.md, and the plot beside it."""
    plot(results, folder / "performance.png")
    page = folder / "performance.md"
    before = page.read_text()
    marked = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    if not marked.search(before):
        raise SystemExit(f"{page} has no {BEGIN}")
    page.write_text(marked.sub(lambda _: f"{BEGIN}\n\n{text}\n\n{END}", before))
