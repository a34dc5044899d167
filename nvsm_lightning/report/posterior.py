"""The distribution over poses in reports: its section of results.json, its table, its columns, and a rose beside a
picture.
"""

import math
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from PIL import Image, ImageDraw, ImageFont
from rich.box import SIMPLE_HEAD
from rich.table import Table
from torch import Tensor

from nvsm_lightning.geometry.viewpoints import viewpoint_error, wrap_angle
from nvsm_lightning.metrics.posterior import (
    mixture_log_density,
    point_log_density,
    posterior_metrics,
    prior_log_density,
)
from nvsm_lightning.report.overlays import PREDICTED, SUPERSAMPLING, TRUTH
from nvsm_lightning.report.rows import Rows

ANGLES = ("azimuth_deg", "elevation_deg", "theta_deg")
SPREAD = (90, 90, 90)


def posterior_section(
    info: Mapping[str, Any], rows: Rows, error: Float[Tensor, " picture"], labelled: Float[Tensor, "label 3"]
) -> dict[str, Any]:
    """``results["posterior"]``: :func:`nvsm_lightning.metrics.posterior.posterior_metrics` and the negative
    log-likelihoods of what the posterior has to beat, each null where it does not exist; {} without a posterior.

    Args:
        info: of the method: space, log_volume, calibration (see ``PoseMethod.posterior_info``).
        rows: of the test pictures.
        error: in radians, NaN where the truth is unknown.
        labelled: viewpoints of the labelled pictures.
    """
    found = rows.posterior
    if not found or not found["log_density"].isfinite().any():
        return {}
    on_circle, volume = info["space"] == "circle", info["log_volume"]
    known = found["log_density"].isfinite()
    truth = rows.truth[known].double()
    if on_circle:
        error = _apart(rows.viewpoint, rows.truth, on_circle)
    section = {
        "space": info["space"],
        "temperature": info["temperature"],
        "calibrated": info["n_images"] > 0,
        "calibrated_on": info["n_images"],
        **posterior_metrics(found["log_density"], found["level"], found["mode_mass"][:, 0], error),
        "entropy": float(found["entropy"].mean()),
        "flip_mass": float(found["flip_mass"].mean()),
        "nll_uncalibrated": -float(found["log_density_uncalibrated"][known].mean()),
        "nll_point": None, "nll_point_floored": None, "nll_prior_only": None, "nll_uniform": volume,
    }  # fmt: skip
    if not (on_circle or info["space"] == "SO(3)"):
        return section
    error = error[known]
    if info["concentration"] is not None:
        point = point_log_density(error, torch.tensor(info["concentration"]), on_circle)
        floored = mixture_log_density(error, info["floored_concentration"], info["floored_share"], on_circle)
        section |= {"nll_point": volume - float(point.mean()), "nll_point_floored": volume - float(floored.mean())}
    labelled = labelled[labelled[:, 0].isfinite()].double()
    if len(labelled):
        away, between = (_apart(each[:, None], labelled[None], on_circle) for each in (truth, labelled))
        section["nll_prior_only"] = volume - float(prior_log_density(away, between, on_circle).mean())
    return section


def _apart(a: Float[Tensor, "*#batch 3"], b: Float[Tensor, "*#batch 3"], on_circle: bool) -> Float[Tensor, "*batch"]:
    return wrap_angle(a[..., 0] - b[..., 0]).abs() if on_circle else viewpoint_error(a, b)


def posterior_table(section: Mapping[str, Any]) -> Table:
    """The section for a terminal."""
    if section["calibrated"]:
        how = f"temperature {section['temperature']:.3g} fitted on {section['calibrated_on']} validation pictures"
    else:
        how = "NOT calibrated (the fit had no validation part or never validated), temperature 1"
    table = Table(
        title=f"Distribution over poses ({section['space']}); {how}",
        caption="NLL in nats, lower is better. ECE: of the probability that the pose is within 30 degrees. von Mises "
        "and matrix-Fisher: around the estimated pose, fitted on the same validation pictures.",
        box=SIMPLE_HEAD, title_justify="left", caption_justify="left",
    )  # fmt: skip
    for name in ("distribution", "NLL", "in the 50 % region", "in the 90 % region", "ECE"):
        table.add_column(name, justify="left" if name == "distribution" else "right", no_wrap=True)
    numbers = (f"{section[key]:.1f} %" for key in ("coverage_50", "coverage_90", "ece"))
    table.add_row("posterior", f"{section['nll']:.2f}", *numbers, style="bold")
    point = "von Mises" if section["space"] == "circle" else "matrix-Fisher"
    names = {
        "nll_uncalibrated": "posterior, temperature 1", "nll_point": point,
        "nll_point_floored": f"{point} + uniform share", "nll_prior_only": "prior only", "nll_uniform": "uniform",
    }  # fmt: skip
    for key, name in names.items():
        if section[key] is not None:
            table.add_row(name, f"{section[key]:.2f}", "", "", "", style="dim")
    return table


def posterior_columns(posterior: Mapping[str, Tensor]) -> tuple[list[str], list[list[float]]]:
    """Names and one line a picture: entropy (nats), flip mass, mass of the reported pose, then the further modes with
    angles in degrees and mass; NaN where there is no such mode. Nothing without a posterior.
    """
    if not posterior:
        return [], []
    mode, mass = posterior["mode"], posterior["mode_mass"]
    names, columns = ["entropy", "flip_mass", "mode_mass"], [posterior["entropy"], posterior["flip_mass"], mass[:, 0]]
    for number in range(1, mode.shape[1]):
        names += [*(f"mode_{number + 1}_{angle}" for angle in ANGLES), f"mode_{number + 1}_mass"]
        columns += [*mode[:, number].rad2deg().unbind(-1), mass[:, number]]
    return names, torch.stack([column.double() for column in columns], -1).tolist()


def rose(
    density: Float[Tensor, " azimuth"], marks: Sequence[tuple[float, tuple[int, int, int]]], size: int
) -> Image.Image:
    """The object seen from above, with the density of the azimuth around it: area is probability, and a ray for each
    (azimuth in radians, colour). The front looks down, as in a picture of azimuth 0; the camera moves to the object's
    own left, in this drawing to the right.
    """
    full = size * SUPERSAMPLING
    canvas = Image.new("RGB", (full, full), "white")
    draw = ImageDraw.Draw(canvas)
    middle, inner = full / 2, 0.16 * full
    outer = 0.47 * full

    def at(azimuth: float, radius: float) -> tuple[float, float]:
        """The pixel at an azimuth and a radius; azimuth 0 points down."""
        return middle + radius * math.sin(azimuth), middle + radius * math.cos(azimuth)

    for share in (1 / 3, 2 / 3, 1.0):
        radius = inner + share * (outer - inner)
        draw.ellipse((middle - radius, middle - radius, middle + radius, middle + radius), outline=(225, 225, 225))
    density = density.clamp_min(0.0)
    # the square root: a sector's area, not its length, is what the eye compares
    height = (density / density.max().clamp_min(1e-12)).sqrt().tolist()
    step = 2 * math.pi / len(height)
    ring = [at(number * step, inner + value * (outer - inner)) for number, value in enumerate(height)]
    draw.polygon(ring, fill=(255, 208, 145), outline=SPREAD)
    draw.ellipse((middle - inner, middle - inner, middle + inner, middle + inner), fill="white", outline=SPREAD)
    wide, long = 0.055 * full, 0.11 * full
    draw.rectangle((middle - wide, middle - long, middle + wide, middle + long), fill=(200, 200, 200), outline=SPREAD)
    nose = ((middle - wide, middle + long), (middle + wide, middle + long), (middle, middle + long + wide))
    draw.polygon(nose, fill=SPREAD)
    for azimuth, colour in marks:
        if math.isfinite(azimuth):
            draw.line((*at(azimuth, inner), *at(azimuth, outer)), fill=colour, width=2 * SUPERSAMPLING)
    return canvas.reduce(SUPERSAMPLING)


_font = cache(ImageFont.load_default)  # reading it takes longer than drawing with it


def with_rose(
    picture: Image.Image, posterior: Mapping[str, Tensor], row: int, azimuths: Sequence[float]
) -> Image.Image:
    """A picture with the rose of its azimuth on the right; ``azimuths`` in radians: reported, then (if known) true."""
    size, line = max(150, picture.height), 16
    marks = list(zip(azimuths, (PREDICTED, TRUTH), strict=False))
    canvas = Image.new("RGB", (picture.width + size + 6, size + line), "white")
    canvas.paste(picture, (0, (size + line - picture.height) // 2))
    canvas.paste(rose(posterior["azimuth_density"][row], marks[::-1], size), (picture.width + 6, 0))
    text = f"mass {100 * float(posterior['mode_mass'][row, 0]):.0f} %"
    flip = float(posterior["flip_mass"][row])
    if flip >= 0.005:
        text += f", flipped {100 * flip:.0f} %"
    ImageDraw.Draw(canvas).text((picture.width + 10, size), text, "black", _font(12))
    return canvas
