"""The plots of docs/scale-out.md, as PNG files."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from benchmarks.scale.costs import Costs
from benchmarks.scale.simulation import PROFILES, Limits, Plan, Profile, plan

COLOURS = ("#1b6ca8", "#c4662b", "#3a8a4d")
STEPS = [round(10 ** (exponent / 20)) for exponent in range(80, 141)]
"""From ten thousand users to ten million."""


def draw(costs: Costs, users: Mapping[str, Any], folder: Path) -> list[Path]:
    """Draw all of them; returns the files."""
    folder.mkdir(parents=True, exist_ok=True)
    return [
        _memory(users["contenders"], folder / "users-memory.png"),
        _cpu(users["contenders"], folder / "users-cpu.png"),
        _servers(costs, folder / "servers.png"),
        _foreign(costs, folder / "foreign.png"),
        _traffic(costs, folder / "traffic.png"),
    ]


@contextmanager
def _picture(path: Path, title: str, across: str, up: str) -> Iterator[Axes]:
    # A figure of its own, not pyplot's: that one is global and looks for a display.
    figure = Figure(figsize=(7, 4), layout="constrained", facecolor="white")
    axes = figure.add_subplot()
    axes.set_title(title, fontsize="medium")
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    yield axes
    axes.legend(fontsize="small", frameon=False)
    figure.savefig(path, dpi=120)


def _memory(contenders: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> Path:
    title = "Memory of the NATS server while users connect"
    with _picture(path, title, "connected users", "memory, MiB") as axes:
        _steps(axes, contenders, "NATS memory MiB")
    return path


def _cpu(contenders: Mapping[str, Sequence[Mapping[str, float]]], path: Path) -> Path:
    title = "CPU of the NATS server at a steady emission while users connect"
    with _picture(path, title, "connected users", "CPU, % of a core") as axes:
        _steps(axes, contenders, "NATS CPU % of a core")
    return path


def _steps(
    axes: Axes, contenders: Mapping[str, Sequence[Mapping[str, float]]], figure: str
) -> None:
    for (name, steps), colour in zip(contenders.items(), COLOURS, strict=True):
        across, up = [each["users"] for each in steps], [each[figure] for each in steps]
        axes.plot(across, up, marker="o", color=colour, label=name)
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _plans(costs: Costs, profile: Profile, *, partitions: int) -> tuple[list[int], list[Plan]]:
    made = [(each, plan(each, profile, costs, partitions=partitions)) for each in STEPS]
    found = [(users, each) for users, each in made if each is not None]
    return [users for users, _ in found], [each for _, each in found]


def _servers(costs: Costs, path: Path) -> Path:
    title = "Servers needed: each sees all events, or its group's (dashed)"
    with _picture(path, title, "connected users", "server processes") as axes:
        for profile, colour in zip(PROFILES, COLOURS, strict=True):
            users, plans = _plans(costs, profile, partitions=1)
            axes.plot(
                users, [each.servers for each in plans], color=colour, label=f"{profile.name}"
            )
            if users[-1] < STEPS[-1]:
                axes.plot(users[-1:], [plans[-1].servers], marker="x", color=colour)
            users, plans = _plans(costs, profile, partitions=64)
            axes.plot(users, [each.servers for each in plans], color=colour, linestyle="--")
        axes.set_xscale("log")
        axes.set_yscale("log")
    return path


def _foreign(costs: Costs, path: Path) -> Path:
    title = "What events of other servers' users take of each server, without partitions"
    with _picture(path, title, "connected users", "share of a core, %") as axes:
        for profile, colour in zip(PROFILES, COLOURS, strict=True):
            users, plans = _plans(costs, profile, partitions=1)
            share = [each.foreign * 100 for each in plans]
            axes.plot(users, share, color=colour, label=profile.name)
        wall = Limits().core * 100
        axes.axhline(wall, color="#888888", linestyle=":", label="all that a server may use")
        axes.set_xscale("log")
        # With room for the legend.
        axes.set_ylim(0, wall * 1.5)
    return path


def _traffic(costs: Costs, path: Path) -> Path:
    title = "What the busiest of three NATS servers sends: no partitions, or with (dashed)"
    with _picture(path, title, "connected users", "MB/s") as axes:
        for profile, colour in zip(PROFILES, COLOURS, strict=True):
            for partitions, style in ((1, "-"), (64, "--")):
                users, plans = _plans(costs, profile, partitions=partitions)
                sent = [each.engine_bytes / 1e6 for each in plans]
                label = profile.name if partitions == 1 else None
                axes.plot(users, sent, color=colour, linestyle=style, label=label)
        limit = Limits().engine_bytes / 1e6
        axes.axhline(limit, color="#888888", linestyle=":", label="half of 10 Gbit/s")
        axes.set_xscale("log")
        axes.set_yscale("log")
    return path
