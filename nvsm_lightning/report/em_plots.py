"""Plots of one E-step: what was kept and how its scores lie, and which azimuths were confused with which."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from PIL import Image
from torch import Tensor

KEPT, LEFT = "#d95f02", "#9aa5b1"  # colours of kept and of other pool pictures
BINS = 24  # of an azimuth, 15 degrees each; the first one lies around 0
TURN = 2 * math.pi


def round_numbers(
    kept: Bool[Tensor, " pool"], error: Float[Tensor, " pool"], score: Float[Tensor, " pool"]
) -> dict[str, float]:
    """Numbers of a round: pool pictures ``seen`` (matched), share of these kept, and of the kept ones whose truth is
    known the shares within 10 and 30 degrees and above 150 (absent where no truth is known).

    Args:
        kept: pseudo-labelled.
        error: radians; NaN where the truth is not known.
        score: NaN where the picture was skipped.
    """
    seen, count = float((~score.isnan()).sum()), float(kept.sum())
    numbers = {"seen": seen, "kept": count / max(1.0, seen), "count": count}
    known = error[kept & error.isfinite()]
    if len(known):
        for degrees in (10, 30):
            numbers[f"precision_{degrees}"] = float((known < math.radians(degrees)).float().mean())
        numbers["flip_180"] = float((known > math.radians(150)).float().mean())
    return numbers


def gate_picture(rounds: Mapping[int, Mapping[str, float]], matches: Mapping[str, Tensor], title: str) -> Image.Image:
    """Kept share and precision over the rounds so far; histograms of score and margin, kept and not kept.

    Args:
        rounds: :func:`round_numbers` by round, from 0.
        matches: ``score``, ``margin`` and ``kept`` of every pool picture.
        title: above it.
    """
    figure = Figure(figsize=(13, 3.8), layout="constrained")
    lines, score, margin = figure.subplots(1, 3)
    shown = (
        ("kept", "kept share of the matched", "#444444", "s"),
        ("precision_30", "kept within 30 degrees", "#1b9e77", "o"),
        ("precision_10", "kept within 10 degrees", "#7570b3", "o"),
        ("flip_180", "kept off by more than 150", "#e7298a", "x"),
    )
    for name, label, colour, marker in shown:
        points = [(number + 1, 100 * values[name]) for number, values in sorted(rounds.items()) if name in values]
        if points:
            lines.plot(*zip(*points, strict=True), marker=marker, color=colour, label=label)
    lines.set(xlabel="round", ylabel="%", ylim=(-2, 102), xticks=[number + 1 for number in sorted(rounds)])
    lines.grid(alpha=0.3)
    lines.legend(fontsize=8)
    _histogram(score, matches["score"], matches["kept"], "score")
    _histogram(margin, matches["margin"], matches["kept"], "margin over the best rival pose")
    figure.suptitle(title, fontsize=10)
    return drawn(figure)


def _histogram(axes: Any, values: Tensor, kept: Tensor, label: str) -> None:
    groups = [(values[~kept], LEFT, "not kept"), (values[kept], KEPT, "kept")]
    finite = [(group[group.isfinite()], colour, name) for group, colour, name in groups]
    everything = torch.cat([group for group, _, _ in finite])
    if len(everything):
        low, high = float(everything.min()), float(everything.max())
        bins = min(40, max(10, len(everything) // 5))
        edges = torch.linspace(low, high if high > low else low + 1e-3, bins + 1).tolist()
        for group, colour, name in finite:
            axes.hist(group.tolist(), edges, color=colour, alpha=0.75, label=f"{name} ({len(group)})")
        axes.legend(fontsize=8)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel=label, ylabel="pool pictures")


def confusion(pseudo: Float[Tensor, " picture"], truth: Float[Tensor, " picture"]) -> Float[Tensor, "bins bins"]:
    """Pictures by bin of the pseudo azimuth (rows) and of the true one (columns), both in radians and finite."""
    size = TURN / BINS
    rows, columns = (((azimuth + size / 2) % TURN / size).long().clamp_max(BINS - 1) for azimuth in (pseudo, truth))
    return torch.bincount(rows * BINS + columns, minlength=BINS * BINS).reshape(BINS, BINS).float()


def confusion_picture(panels: Sequence[tuple[str, Float[Tensor, "bins bins"]]], title: str) -> Image.Image:
    """A heat map of each (name, :func:`confusion`) side by side; on the diagonal the azimuth is right, on the dashed
    lines it is off by half a turn.
    """
    figure = Figure(figsize=(5.2 * len(panels), 4.8), layout="constrained")
    ticks, names = [0, 90, 180, 270], ["0\nfront", "90\nleft", "180\nback", "270\nright"]
    edge = 180 / BINS
    for axes, (name, counts) in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        masked = torch.where(counts > 0, counts, torch.nan).numpy()
        box = (-edge, 360 - edge, -edge, 360 - edge)
        image = axes.imshow(masked, origin="lower", extent=box, cmap="viridis", vmin=0, interpolation="nearest")
        for shift in (-180, 180):
            axes.plot([0, 360], [shift, 360 + shift], "--", color="grey", linewidth=0.8)
        axes.set(xlim=box[:2], ylim=box[2:], xticks=ticks, yticks=ticks, title=name)
        axes.set(xlabel="true azimuth (degrees)", ylabel="pseudo azimuth (degrees)")
        axes.set_xticklabels(names)
        axes.set_yticklabels([text.replace("\n", " ") for text in names])
        axes.grid(alpha=0.25)
        figure.colorbar(image, ax=axes, shrink=0.8, label="pictures", ticks=MaxNLocator(integer=True))
    figure.suptitle(title, fontsize=10)
    return drawn(figure)


def drawn(figure: Figure) -> Image.Image:
    """The pixels of a figure."""
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return Image.frombuffer("RGBA", canvas.get_width_height(), canvas.buffer_rgba()).convert("RGB")
