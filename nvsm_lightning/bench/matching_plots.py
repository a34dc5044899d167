"""Pictures of the matching experiment: rotation error against the shift, and a gallery of matches."""

from collections.abc import Sequence
from pathlib import Path

import torch
from matplotlib import colormaps
from matplotlib.figure import Figure
from PIL import Image

from nvsm_lightning.bench.matching import CHANCE, FLOOR, Matches, Matching
from nvsm_lightning.bench.matching_tables import Summary
from nvsm_lightning.features.backbone import STRIDE, Backbone
from nvsm_lightning.geometry.cameras import Camera
from nvsm_lightning.matching.synthesis import synthesise
from nvsm_lightning.pose.space import ANGLES
from nvsm_lightning.report.callback import degrees, item_of, make_folder
from nvsm_lightning.report.gallery import contact_sheet
from nvsm_lightning.report.overlays import PREDICTED, captioned, overlay, to_image
from nvsm_lightning.report.painter import Painter

WIDTH = 288  # of a picture of the gallery, pixels
GALLERY_SHIFTS = 5


def plot_features(summaries: Sequence[Summary], path: Path, title: str) -> None:
    """Median error against the shift, a line for each kind of features, a panel for each angle."""
    angles = [angle for angle in ANGLES if any(one.angle == angle for one in summaries)]
    figure = Figure(figsize=(5.5 * len(angles) + 1.5, 4.5), layout="constrained")
    names = list(dict.fromkeys(one.features for one in summaries))
    plain = [name for name in names if name not in (FLOOR, CHANCE)]
    colour = {name: colormaps["tab10"](number % 10) for number, name in enumerate(plain)}
    for column, angle in enumerate(angles):
        axes = figure.add_subplot(1, len(angles), column + 1)
        for name in names:
            chosen = [one for one in summaries if one.features == name and one.angle == angle]
            _line(
                axes, chosen, name, colour.get(name, "grey"), ":" if name == CHANCE else "--" if name == FLOOR else "-"
            )
        _axes(axes, f"shift of {angle} (degrees)")
    figure.axes[0].set_ylabel("rotation error (degrees)")
    figure.axes[-1].legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0))
    _save(figure, path, title)


def plot_epochs(summaries: Sequence[Summary], path: Path, title: str) -> None:
    """Error against the azimuth shift, a line for each epoch; and against the epoch, a line for each size of shift.

    ``summaries``: of azimuth shifts, of contenders that know their epochs.
    """
    epochs = sorted({one.epochs for one in summaries if one.epochs is not None})
    sizes = sorted({abs(one.shift) for one in summaries})
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    for number, epoch in enumerate(epochs):
        colour = colormaps["viridis"](0.9 * number / max(1, len(epochs) - 1))
        _line(left, [one for one in summaries if one.epochs == epoch], f"epoch {epoch}", colour, "-")
    for number, size in enumerate(sizes):
        chosen = [[one for one in summaries if one.epochs == epoch and abs(one.shift) == size] for epoch in epochs]
        middle = [sum(one.median for one in both) / len(both) for both in chosen]
        low, high = ([sum(getattr(one, f"median_{end}") for one in both) / len(both) for both in chosen] for end in
                     ("low", "high"))  # fmt: skip
        colour = colormaps["plasma"](0.85 * number / max(1, len(sizes) - 1))
        right.plot(epochs, middle, "o-", color=colour, label=f"shift {'±' if size else ''}{size:g}")
        right.fill_between(epochs, low, high, color=colour, alpha=0.15, linewidth=0)
    _axes(left, "shift of azimuth (degrees)")
    _axes(right, "epochs of training")
    left.set_ylabel("rotation error (degrees)")
    for axes in (left, right):
        axes.legend(fontsize=8)
    _save(figure, path, title)


def _line(axes: object, summaries: Sequence[Summary], label: str, colour: object, style: str) -> None:
    chosen = sorted(summaries, key=lambda one: one.shift)
    x = [one.shift for one in chosen]
    axes.plot(x, [one.median for one in chosen], style, marker="o", markersize=3, color=colour, label=label)  # type: ignore[attr-defined]
    if label != CHANCE:
        low, high = [one.median_low for one in chosen], [one.median_high for one in chosen]
        axes.fill_between(x, low, high, color=colour, alpha=0.15, linewidth=0)  # type: ignore[attr-defined]


def _axes(axes: object, label: str) -> None:
    axes.set(xlabel=label, ylim=(0, None))  # type: ignore[attr-defined]
    axes.grid(alpha=0.3)  # type: ignore[attr-defined]


def _save(figure: Figure, path: Path, title: str) -> None:
    figure.suptitle(
        f"{title}\nmedian of the matched pictures; bands: 95 % bootstrap interval over the anchors", fontsize=10
    )
    make_folder(path.parent)
    figure.savefig(path, dpi=110)


# ---------------------------------------------------------------------- gallery


@torch.no_grad()
def gallery(matching: Matching, matches: Matches, backbone: Backbone) -> Image.Image:
    """Rows of anchor, synthesised features, best matched picture, its features, and the mesh over it at the synthesised
    pose: for a few anchors, at evenly spaced azimuth shifts.
    """
    model, mesh = matching.model, matching.model.mesh
    anchors = matching.anchor_features(backbone)
    pool, labelled = matching.data.pool_dataloader().dataset, matching.data.anchor_dataloader().dataset
    sources = [labelled[row] for row in range(len(anchors.viewpoint))]
    maps = torch.cat([matching.features(backbone, one["image"][None].to(matching.device)) for one in sources])
    cameras = Camera.stack([one["camera"] for one in sources]).to(matching.device).scaled(1 / STRIDE)
    paint = Painter(maps, cameras.shows((maps.shape[-2], maps.shape[-1])))  # the fill around a crop has no colour to it
    azimuths = [row for row, (angle, _) in enumerate(matching.shifts) if angle == "azimuth"]
    azimuths.sort(key=lambda row: matching.shifts[row][1])
    chosen = torch.linspace(0, len(azimuths) - 1, min(GALLERY_SHIFTS, len(azimuths))).round().long().tolist()
    pictures = []
    for number in range(min(matching.spec.gallery, len(anchors.viewpoint))):
        anchor = sources[number]
        for row in (azimuths[position] for position in chosen):
            index, error = int(matches.index[number, row, 0]), matches.error[number, row, 0]
            match, pose = item_of(pool, index), matching.poses[number, row]  # type: ignore[arg-type]
            camera = match["camera"].to(matching.device).scaled(1 / STRIDE)
            feature_map = matching.features(backbone, match["image"][None].to(matching.device))
            renderer, view = model.renderer(feature_map), pose[None].to(matching.device)
            drawn = synthesise(anchors.vertex[number], view, camera, renderer)
            seen = synthesise(anchors.visible[number, :, None].to(drawn), view, camera, renderer)
            own = overlay(anchor["image"], anchor["camera"], mesh, [(anchor["viewpoint"], PREDICTED)], WIDTH)
            onto = overlay(match["image"], match["camera"], mesh, [(pose, PREDICTED)], WIDTH)
            plain = to_image(match["image"])
            plain = plain.resize(onto.size, Image.Resampling.BICUBIC)
            true, shown = degrees(matching.truth[index, 0]), degrees(pose[0]) % 360
            pictures += [
                captioned(own, [f"anchor, azimuth {degrees(anchor['viewpoint'][0]):.0f}"]),
                captioned(paint(drawn[0], seen[0, 0], onto.size), [f"its features at azimuth {shown:.0f}"]),
                captioned(plain, [f"best match, true azimuth {true:.0f}"]),
                captioned(paint(feature_map[0], None, onto.size), ["its features"]),
                captioned(onto, [f"shift {matching.shifts[row][1]:+g}: error {degrees(error):.0f} degrees"]),
            ]
    title = f"{matches.name}: cuboid at the pose of the anchor (left) and at the synthesised pose (right)"
    return contact_sheet(pictures, title, columns=5)
