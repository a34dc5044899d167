"""Procedural cars: two lofted bodies (lower body and glasshouse), wheels and regions, from the ranges of a family.

Lengths are fractions of the car's length; y runs from 0 (nose) to 1 (tail), z from 0 (road). Front and back differ by
shape (bonnet and boot, rake of the two screens, grille); lamps are small and their colours say nothing.
"""

import numpy as np
from scipy.interpolate import PchipInterpolator

from nvsm_lightning.toy.families import FAMILIES, Family, Range
from nvsm_lightning.toy.shapes import PART, Builder, Shape, full_ring, half_outline, lid

_STATIONS = 27


def _rings(
    builder: Builder, y_front: np.ndarray, y_back: np.ndarray, width: np.ndarray, height, part, power, stations
) -> np.ndarray:
    """Stack outlines (one per entry) and add the wall between them; returns the left halves [ring, point, 3]."""
    halves = []
    for k in range(len(width)):
        plan = half_outline(y_front[k], y_back[k], width[k], stations, power)
        halves.append(np.c_[plan, np.broadcast_to(height[k](plan[:, 1]), len(plan))])
    builder.grid(np.stack([full_ring(half) for half in halves]), part, closed=True)
    return np.stack(halves)


def _lower_body(builder: Builder, m: dict[str, float], rng: np.random.Generator) -> None:
    """Floor to bonnet, belt and boot: five outlines, the uppermost following the side profile, and a crowned lid."""
    profile = PchipInterpolator(
        (-0.1, 0.0, m["cowl"], m["foot"], 1.0, 1.1),
        (m["nose"], m["nose"], m["belt"] - 0.01, m["belt"] + m["wedge"], m["deck"], m["deck"]),
    )
    half, round_ = m["width"] / 2, m["round"]
    stations = np.linspace(0, 1, _STATIONS)

    def level(z):
        """A line of constant height."""
        return lambda y: np.full_like(y, z)

    floor, sill, middle = m["clearance"], m["clearance"] + 0.02, m["clearance"] + 0.42 * (m["belt"] - m["clearance"])
    heights = (level(floor), level(sill), level(middle), lambda y: profile(y) - 0.03, profile)
    front = np.array([m["chin"] + 0.02, m["chin"], 0.0, 0.004, 0.006 + round_])
    back = 1 - np.array([0.035, 0.018, 0.0, 0.004, 0.004 + round_ * 0.6])
    width = half * np.array([0.88, 0.97, 1.0, 0.985, 0.985 - round_ * 1.2])
    halves = _rings(builder, front, back, width, heights, "paint", m["plan_power"], stations)
    builder.grid(lid(halves[-1], m["crown"]), "paint")
    builder.grid(lid(halves[0], 0.0), "dark")


def _glasshouse(builder: Builder, m: dict[str, float], family: Family, rng: np.random.Generator) -> None:
    """Windows and roof: outlines at belt, shoulder of the roof and roof, with pillars along lines of constant index."""
    stations = np.unique(
        np.concatenate((np.linspace(0, 1, 12), (0.03, 0.06), *((p, p + 0.035) for p in family.pillars), (0.965,)))
    )
    stations = stations[stations <= 1]
    half, tumble = m["width"] / 2, m["tumble"]
    roof = m["height"]
    bottom, top = m["belt"] - 0.02, roof - 0.022

    def sloped(z):
        """A line that rises by the wedge from cowl to foot."""
        return lambda y: z + m["wedge"] * np.clip((y - m["cowl"]) / (m["foot"] - m["cowl"]), 0, 1)

    def flat(z):
        """A line that falls towards the back of the roof."""
        return lambda y: z - m["roof_drop"] * np.clip((y - m["roof_front"]) / (m["roof_back"] - m["roof_front"]), 0, 1)

    front = np.array([m["cowl"], m["roof_front"], m["roof_front"] + 0.03])
    back = np.array([m["foot"], m["roof_back"], m["roof_back"] - 0.03])
    width = half * np.array([0.955, 0.955 - tumble, 0.9 - tumble])
    edge, points = 6, len(stations) - 2 + 12
    labels = np.full(points - 1, PART["paint"])
    labels[: edge - 1] = PART["glass"]  # windscreen up to the corner pillar
    labels[-(edge - 1) :] = PART["glass"] if rng.random() < 0.93 or not m["solid"] else PART["paint"]
    fractions = stations[1:-1]
    open_side = np.ones(len(fractions) - 1, bool)
    rows = np.arange(len(fractions) - 1)
    for pillar in family.pillars:
        open_side &= ~((fractions[:-1] >= pillar - 1e-6) & (fractions[1:] <= pillar + 0.035 + 1e-6))
    open_side &= (fractions[:-1] >= 0.03 - 1e-6) & (fractions[1:] <= 0.965 + 1e-6)
    if m["solid"]:  # a panel van: metal behind the driver's door
        open_side &= fractions[1:] <= family.pillars[0] + 1e-6
    labels[edge + rows[open_side]] = PART["glass"]
    wall = np.concatenate((labels, labels[::-1]))
    parts = np.stack((wall, np.full_like(wall, PART["paint"])))
    halves = _rings(
        builder, front, back, width, (sloped(bottom), flat(top), flat(roof)), parts, m["roof_power"], stations
    )
    builder.grid(lid(halves[-1], 0.012), "paint")


def _wheels(builder: Builder, m: dict[str, float], rng: np.random.Generator) -> None:
    """Four wheels with spoked rims in dark arches."""
    radius, track = m["wheel"], m["width"] / 2
    rim, hub, spokes = radius * m["rim"], radius * 0.2, int(rng.integers(5, 12))
    step = np.pi / spokes * rng.uniform(0.35, 0.65)
    centres = 2 * np.pi * np.arange(spokes) / spokes
    for name, y in (("front", m["axle_front"]), ("back", m["axle_back"])):
        builder.point(f"{{}}_{name}_wheel", (track, y, radius), -1)
        for x in (track, -track):

            def polygon(angle, length, part, out, x=x, y=y):
                """A convex polygon in the wheel's plane, in polar coordinates, ``out`` times as far out as the body."""
                angle, length = np.asarray(angle), np.broadcast_to(length, len(angle))
                points = np.c_[
                    np.full(len(angle), x * out), y + length * np.cos(angle), radius + length * np.sin(angle)
                ]
                builder.mesh(points, np.array([(0, k, k + 1) for k in range(1, len(angle) - 1)]), part)

            builder.tube((x * 0.62, y, radius), (x * 1.005, y, radius), radius, "tyre", 18)
            polygon(np.linspace(0, 2 * np.pi, 21)[:-1], rim * 1.03, "dark", 1.008)
            polygon(np.linspace(0, 2 * np.pi, 9)[:-1], hub * 1.4, "rim", 1.014)
            for at in centres:
                polygon((at - step, at - 0.7 * step, at + 0.7 * step, at + step), (hub, rim, rim, hub), "rim", 1.012)
        arch = radius * m["arch"]
        builder.pair((track, y, radius), (track * 0.45, arch, arch), "dark", 2.0)


_ANYWHERE = ("paint", "second", "trim", "dark")


def _front(builder: Builder, m: dict[str, float], rng: np.random.Generator) -> None:
    """Head lamps, grille, air intake, plate."""
    half, low, rise = m["width"] / 2, m["clearance"], m["nose"] - m["clearance"]
    z = low + rng.uniform(0.68, 0.85) * rise
    size = (half * rng.uniform(0.16, 0.32), rng.uniform(0.03, 0.09), rng.uniform(0.012, 0.028))
    builder.pair((half * rng.uniform(0.70, 0.84), 0.01, z), size, "lamp_front", rng.choice((2.0, 3.0, 6.0)))
    builder.point("{}_front_light", (half * 0.8, 0.02, z), -1)
    size = (half * rng.uniform(0.3, 0.5), 0.04, rng.uniform(0.012, 0.03))
    look = rng.choice(("dark", "chrome", "trim"), p=(0.6, 0.2, 0.2))
    builder.region((0, 0, z - rng.uniform(-0.004, 0.015)), size, look)
    builder.region((0, 0, low + 0.18 * rise), (half * rng.uniform(0.4, 0.85), 0.03, rng.uniform(0.008, 0.018)), "dark")
    if rng.random() < 0.75:
        builder.region((0, 0, low + rng.uniform(0.28, 0.4) * rise), (0.055, 0.03, 0.012), "plate", 12.0, _ANYWHERE)


def _back(builder: Builder, m: dict[str, float], rng: np.random.Generator) -> None:
    """Rear lamps, upright or flat, and the plate."""
    half, low, rise = m["width"] / 2, m["clearance"], m["deck"] - m["clearance"]
    z = low + rng.uniform(0.6, 0.85) * rise
    if rng.random() < 0.4:
        size = (half * rng.uniform(0.09, 0.16), rng.uniform(0.02, 0.06), rng.uniform(0.03, 0.06))
    else:
        size = (half * rng.uniform(0.18, 0.34), rng.uniform(0.02, 0.08), rng.uniform(0.012, 0.026))
    builder.pair((half * rng.uniform(0.76, 0.88), 0.995, z), size, "lamp_back", rng.choice((2.0, 3.0, 6.0)))
    builder.point("{}_back_trunk", (half * 0.8, 0.98, m["deck"]), 1)
    if rng.random() < 0.3:  # a dark or shiny bar, as a grille has
        look = rng.choice(("dark", "chrome", "trim"))
        builder.region((0, 1, z), (half * rng.uniform(0.3, 0.5), 0.03, rng.uniform(0.008, 0.02)), look)
    if rng.random() < 0.9:
        builder.region((0, 1, low + rng.uniform(0.3, 0.65) * rise), (0.055, 0.03, 0.012), "plate", 12.0, _ANYWHERE)


def _lines(builder: Builder, m: dict[str, float], rng: np.random.Generator) -> None:
    """Plastic bumpers and sills, doors with their handles, edges of the lids, a line along the side."""
    half, belt, low = m["width"] / 2, m["belt"], m["clearance"]
    if rng.random() < 0.45:
        part = rng.choice(("trim", "second"))
        top = low + rng.uniform(0.25, 0.5) * (m["nose"] - low)
        for y in (0.0, 1.0):
            size = (1, rng.uniform(0.06, 0.14), (top - low) / 2 + 0.02)
            builder.region((0, y, (top + low) / 2 - 0.02), size, part)
        if rng.random() < 0.6:
            builder.region((0, 0.5, low), (1, 1, rng.uniform(0.02, 0.06)), part)
    line = 0.0022
    doors = [m["cowl"] + 0.03, m["door"], *([m["foot"] - 0.12] if m["four_doors"] else [])]
    for y in doors:
        builder.pair((half, y, (low + belt) / 2 + 0.02), (half * 0.3, line, (belt - low) / 2 - 0.01), "dark", 12.0)
    handle = rng.choice(("dark", "chrome", "second"))
    for y in doors[1:]:
        builder.pair((half, y - 0.035, belt - 0.03), (half * 0.3, 0.02, 0.005), handle, 4.0)
    for y, chance in ((rng.uniform(0.03, 0.06), 0.8), (1 - rng.uniform(0.02, 0.05), 0.8)):
        if rng.random() < chance:
            builder.region((0, y, belt), (half * 0.8, line, 0.15), "dark", 12.0)
    if rng.random() < 0.5:
        look = rng.choice(("dark", "second", "chrome"))
        builder.region((0, 0.5, belt - rng.uniform(0.03, 0.06)), (1, 0.42, 0.003), look)


def _extras(builder: Builder, m: dict[str, float], family: Family, rng: np.random.Generator) -> None:
    """Mirrors, and now and then a spoiler, roof rails, a roof box; the pickup's open bed."""
    half, belt = m["width"] / 2, m["belt"]
    y = m["cowl"] + 0.25 * (m["roof_front"] - m["cowl"]) + 0.02
    for sign in (1, -1):
        builder.ellipsoid(
            (sign * half * 1.06, y, belt + 0.018),
            (half * 0.13, 0.018, 0.018),
            rng.choice(("paint", "second", "dark")),
            5,
            8,
        )
    if family.bed:
        middle, length = (m["foot"] + 1) / 2 + 0.005, (1 - m["foot"]) / 2 - 0.035
        builder.region((0, middle, m["deck"] + 0.03), (half * 0.8, length, 0.06), "dark", 14.0)
    elif rng.random() < 0.15:
        builder.box((0, m["roof_back"] - 0.0, m["height"] + 0.004), (half * 1.3, 0.05, 0.008), "paint")
    if rng.random() < 0.15:
        for sign in (1, -1):
            roof = (m["roof_front"] + m["roof_back"]) / 2
            builder.box(
                (sign * half * 0.68, roof, m["height"] + 0.01),
                (0.012, (m["roof_back"] - m["roof_front"]) * 0.8, 0.01),
                rng.choice(("dark", "chrome")),
            )
    if rng.random() < 0.05 and not family.bed:
        roof = (m["roof_front"] + m["roof_back"]) / 2
        builder.box(
            (0, roof, m["height"] + 0.03), (half * 0.8, 0.28, 0.045), rng.choice(("dark", "second")), (0.9, 0.85)
        )


def make_car(rng: np.random.Generator, family: str | None = None) -> Shape:
    """One random car, centred, with a bounding box of diagonal 1; ``family`` is drawn when not given."""
    family = family or str(rng.choice(list(FAMILIES), p=(0.22, 0.17, 0.13, 0.1, 0.09, 0.14, 0.1, 0.05)))
    kind = FAMILIES[family]

    def draw(bounds: Range) -> float:
        """A random number in a range."""
        return float(rng.uniform(*bounds))

    height = 0.95 * draw(kind.height)
    belt = height * draw(kind.belt)
    doors = 0.15 if family in ("coupe", "minicar", "pickup") else 0.75
    m = {
        "cowl": draw(kind.cowl), "roof_front": draw(kind.roof_front), "roof_back": draw(kind.roof_back),
        "foot": draw(kind.screen_foot), "height": height, "belt": belt, "nose": belt * draw(kind.nose),
        "deck": belt * draw(kind.deck), "width": 0.9 * draw(kind.width), "clearance": draw(kind.clearance),
        "wedge": rng.uniform(0, 0.018), "round": rng.uniform(0.012, 0.03), "chin": rng.uniform(0.0, 0.025),
        "crown": rng.uniform(0.006, 0.018), "tumble": rng.uniform(0.10, 0.22), "roof_drop": rng.uniform(0.0, 0.015),
        "plan_power": rng.uniform(4.0, 8.0), "roof_power": rng.uniform(6.0, 10.0), "wheel": rng.uniform(0.066, 0.082),
        "rim": rng.uniform(0.58, 0.76), "arch": rng.uniform(1.1, 1.22), "axle_front": rng.uniform(0.16, 0.20),
        "axle_back": rng.uniform(0.78, 0.83), "four_doors": float(rng.random() < doors),
        "solid": float(rng.random() > kind.rear_glass),
    }  # fmt: skip
    m["wheel"] += 0.25 * (m["clearance"] - 0.05)
    m["door"] = m["cowl"] + (kind.pillars[0] + 0.02) * (m["foot"] - m["cowl"])
    builder = Builder()
    _lower_body(builder, m, rng)
    _glasshouse(builder, m, kind, rng)
    _lines(builder, m, rng)
    _front(builder, m, rng)
    _back(builder, m, rng)
    _wheels(builder, m, rng)
    _extras(builder, m, kind, rng)
    for name, z, x, front, back in (
        ("lower", belt, 0.46, "cowl", "foot"),
        ("upper", height, 0.38, "roof_front", "roof_back"),
    ):
        builder.point(f"{name}_{{}}_windshield", (m["width"] * x, m[front], z), -1)
        builder.point(f"{name}_{{}}_rearwindow", (m["width"] * x, m[back], z), 1)
    return builder.shape()
