"""Two pictures of a comparison, as SVG: ``python -m bench.peers.pictures bench/out/peers.json docs/pictures``.

Runs in ``.venv-peers``, which has matplotlib.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("svg")
mpl.rcParams["svg.hashsalt"] = "flowstream"  # the same figures give the same file
import matplotlib.pyplot as plt  # noqa: E402 - the backend comes first

OWN, OTHER = "#0b6e4f", "#8a94a0"
NO_DATE = {"Date": None}


def bars(found: dict[str, Any], path: Path) -> None:
    """Draw job a's records per CPU second by peer, best of the rounds."""
    best: dict[str, tuple[float, bool]] = {}
    for run in (run for run in found["runs"] if run["job"] == "a"):
        rate, equal = best.get(run["peer"], (0.0, True))
        best[run["peer"]] = max(rate, run["per_cpu_s"]), equal and run["equal"]
    names = sorted(best, key=lambda name: best[name][0])
    figure, axes = plt.subplots(figsize=(7.5, 0.5 * len(names) + 1.2), facecolor="white")
    rates = [best[name][0] for name in names]
    axes.barh(names, rates, color=[OWN if name == "flowstream" else OTHER for name in names])
    axes.set_xscale("log")
    axes.set_xlim(min(rates) / 3, max(rates) * 6)
    for at, name in enumerate(names):
        doubt = "" if best[name][1] else " (results differ)"
        axes.text(best[name][0] * 1.1, at, f"{_three_digits(best[name][0])}{doubt}", va="center", fontsize=9)
    axes.set_xlabel("flow records per CPU second, one core (log scale)")
    axes.set_title("Sums per source and 3 s window, 50,000 sources", fontsize=10)
    _plain(axes)
    figure.tight_layout()
    figure.savefig(path, metadata=NO_DATE)


def lines(found: dict[str, Any], path: Path) -> None:
    """Draw job a's records per CPU second over the number of sources."""
    figure, axes = plt.subplots(figsize=(7.5, 4), facecolor="white")
    for peer in dict.fromkeys(point["peer"] for point in found["sweep"]):
        points = sorted((p["sources"], p["per_cpu_s"]) for p in found["sweep"] if p["peer"] == peer)
        own = peer == "flowstream"
        axes.plot(*zip(*points, strict=True), marker="o", color=OWN if own else None, linewidth=2.5 if own else 1.5)
        axes.annotate(peer, points[-1], xytext=(6, 0), textcoords="offset points", va="center", fontsize=9)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.margins(x=0.15)
    axes.set_xlabel("source addresses")
    axes.set_ylabel("flow records per CPU second")
    axes.set_title("Sums per source and 3 s window, one core", fontsize=10)
    _plain(axes)
    figure.tight_layout()
    figure.savefig(path, metadata=NO_DATE)


def _three_digits(rate: float) -> str:
    return f"{float(f'{rate:.3g}'):,.0f}"


def _plain(axes: Any) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="x", which="major", color="#e3e6e9", linewidth=0.8)
    axes.set_axisbelow(True)


def main(file: str, folder: str) -> None:
    """Draw what there are figures for."""
    found = json.loads(Path(file).read_text())
    Path(folder).mkdir(parents=True, exist_ok=True)
    if any(run["job"] == "a" for run in found["runs"]):
        bars(found, Path(folder) / "peers.svg")
    if found["sweep"]:
        lines(found, Path(folder) / "peers_by_sources.svg")


if __name__ == "__main__":
    main(*sys.argv[1:])
