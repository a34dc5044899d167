"""Other categories from the same primitives: for pre-training on pictures without cars, and as clutter behind cars.

Every family has a canonical frame (front to -y, z up) and differs in front and back; its instances vary as cars do.
"""

from collections.abc import Callable
from itertools import pairwise

import numpy as np

from nvsm_lightning.toy.shapes import Builder, Shape


def _part(rng: np.random.Generator, *names: str) -> str:
    return str(rng.choice(names))


def chair(rng: np.random.Generator) -> Shape:
    """Seat, back (at +y), legs or a pedestal, sometimes arms."""
    b, u = Builder(), rng.uniform
    w, d, seat, top = u(0.4, 0.55), u(0.4, 0.55), u(0.38, 0.5), u(0.75, 1.15)
    b.box((0, 0, seat), (w, d, u(0.03, 0.1)), "paint")
    lean, thick = u(0.0, 0.12), u(0.03, 0.08)
    back_low = seat + u(0.02, 0.18)
    b.box(
        (0, d / 2, (back_low + top) / 2),
        (w * u(0.8, 1), thick, top - back_low),
        _part(rng, "paint", "second"),
        (u(0.7, 1), 1),
        (0, lean),
    )
    for x in (-1, 1):
        b.box((x * w * 0.42, d / 2, (seat + back_low) / 2), (0.03, 0.03, back_low - seat + 0.06), "second")
    if rng.random() < 0.7:
        r, splay = u(0.012, 0.03), u(0, 0.06)
        for x in (-1, 1):
            for y in (-1, 1):
                b.tube(
                    (x * w * 0.45, y * d * 0.45, seat),
                    (x * (w * 0.45 + splay), y * (d * 0.45 + splay), 0),
                    r,
                    "second",
                    6,
                )
    else:
        b.tube((0, 0, seat), (0, 0, 0.04), 0.03, "chrome", 8)
        for k in range(5):
            a = 2 * np.pi * (k + 0.5) / 5
            b.tube((0, 0, 0.06), (0.28 * np.cos(a), 0.28 * np.sin(a), 0.03), 0.02, "dark", 6)
    if rng.random() < 0.5:
        for x in (-1, 1):
            h = seat + u(0.16, 0.24)
            b.box((x * w * 0.5, 0.03, h), (0.05, d * 0.9, 0.04), "second")
            b.box((x * w * 0.5, -d * 0.35, (seat + h) / 2), (0.03, 0.03, h - seat), "second")
    return b.shape()


def sofa(rng: np.random.Generator) -> Shape:
    """Seat cushions, back at +y, arm rests."""
    b, u = Builder(), rng.uniform
    w, d, seat, top, arm = u(1.2, 2.3), u(0.7, 0.95), u(0.35, 0.45), u(0.7, 0.95), u(0.1, 0.25)
    b.box((0, 0, seat / 2 + 0.03), (w, d, seat - 0.08), "paint")
    count = int(rng.integers(1, 4))
    inner = w - 2 * arm
    for k in range(count):
        x = (k + 0.5) / count * inner - inner / 2
        b.box(
            (x, -0.06, seat + 0.03), (inner / count * 0.97, d * 0.8, 0.12), _part(rng, "paint", "second"), (0.95, 0.95)
        )
        b.box(
            (x, d * 0.22, (seat + top) / 2 + 0.05),
            (inner / count * 0.95, 0.18, top - seat),
            "second" if count == 2 else "paint",
            (0.94, 0.7),
            (0, 0.08),
        )
    b.box((0, d / 2 - 0.06, top / 2 + 0.03), (w, 0.16, top), "paint", (1, 0.7), (0, u(0, 0.08)))
    height = seat + u(0.1, 0.25)
    for x in (-1, 1):
        b.box((x * (w - arm) / 2, -0.02, height / 2 + 0.03), (arm, d * 0.95, height), "paint", (u(0.7, 1.2), 1))
        for y in (-1, 1):
            b.tube((x * w * 0.45, y * d * 0.42, 0.08), (x * w * 0.45, y * d * 0.42, 0), 0.025, "dark", 6)
    return b.shape()


def desk(rng: np.random.Generator) -> Shape:
    """Top, a drawer unit on the left and drawers and leg room towards the front, modesty panel at the back."""
    b, u = Builder(), rng.uniform
    w, d, h = u(1.1, 1.7), u(0.55, 0.85), u(0.68, 0.8)
    b.box((0, 0, h), (w, d, 0.04), "paint")
    b.box((0, d * 0.42, h * 0.62), (w * 0.94, 0.02, h * 0.7), "second")
    unit = w * u(0.24, 0.34)
    x = w / 2 - unit / 2 - 0.02
    b.box((x, 0.0, h / 2), (unit, d * 0.92, h), _part(rng, "paint", "second"))
    for z in np.linspace(0.2, 0.8, int(rng.integers(2, 5))) * h:
        b.region((x, -d * 0.46, z), (unit * 0.2, 0.02, 0.012), "chrome")
        b.region((x, -d * 0.46, z + 0.07), (unit * 0.5, 0.02, 0.006), "dark")
    for y in (-1, 1):
        b.box((-w * 0.46, y * d * 0.4, h / 2), (0.05, 0.05, h), "second")
    if rng.random() < 0.7:  # a screen with its face to the user, who sits in front
        b.box((-w * 0.12, d * 0.2, h + 0.28), (w * 0.36, 0.03, 0.32), "dark")
        b.region((-w * 0.12, d * 0.2 - 0.015, h + 0.28), (w * 0.17, 0.01, 0.14), "decal_a", 12.0, ("dark",))
        b.box((-w * 0.12, d * 0.24, h + 0.07), (0.06, 0.04, 0.14), "dark")
    return b.shape()


def boat(rng: np.random.Generator) -> Shape:
    """Hull with its bow at -y, cabin, mast or funnel towards the stern."""
    b, u = Builder(), rng.uniform
    w, h, flare = u(0.2, 0.34), u(0.1, 0.2), u(0.5, 0.85)
    t = np.linspace(0, 1, 20)
    beam = w / 2 * np.sin(np.pi / 2 * np.clip(t / u(0.45, 0.7), 0, 1)) ** u(0.7, 1.1)
    sheer = h * (1 + u(0.2, 0.6) * (1 - t) ** 2)
    rows = []
    for k, z in ((flare * 0.3, 0.0), (flare, 0.35), (1.0, 1.0)):
        half = np.c_[beam * k, t + 0.1 * (1 - z) * (1 - t), sheer * z]
        rows.append(np.concatenate((half, half[::-1] * (-1, 1, 1))))
    b.grid(np.stack(rows), np.stack((np.full(40, 1), np.full(40, 0))), closed=True)
    deck = np.c_[beam, t, sheer * 0.9]
    b.grid(np.stack((deck, deck * (-1, 1, 1))), "second")
    y, length, top = u(0.5, 0.65), u(0.2, 0.35), u(0.1, 0.2)
    b.box((0, y, h + top / 2), (w * u(0.5, 0.8), length, top), "paint", (0.9, u(0.6, 0.9)), (0, u(0, 0.05)))
    b.region((0, y, h + top * 0.65), (w, length, top * 0.16), "glass", 10.0)
    if rng.random() < 0.5:
        b.tube((0, y + length * 0.3, h), (0, y + length * 0.3 + 0.03, h + u(0.25, 0.9)), 0.01, "chrome", 6)
    else:
        b.tube((0, y + length * 0.2, h + top), (0, y + length * 0.25, h + top + u(0.06, 0.15)), w * 0.12, "second", 10)
    b.box((0, 0.99, h * 0.55), (w * 0.25, 0.05, h * 0.9), "dark")
    return b.shape()


def aeroplane(rng: np.random.Generator) -> Shape:
    """Fuselage, wings, tail; low, high or twin-engined."""
    b, u = Builder(), rng.uniform
    r, span = u(0.045, 0.075), u(0.7, 1.1)
    y = np.array([0, 0.03, 0.1, 0.2, 0.6, 0.8, 0.92, 1.0])
    radius = r * np.array([0.02, 0.45, 0.85, 1, 1, 0.75, 0.42, 0.12])
    angle = np.linspace(0, 2 * np.pi, 16, endpoint=False)
    lift = np.array([0, 0, 0, 0, 0, 0.15, 0.5, 0.8])[:, None] * r
    b.grid(
        np.stack(
            (radius[:, None] * np.sin(angle), np.repeat(y[:, None], 16, 1), radius[:, None] * np.cos(angle) + lift), -1
        ),
        "paint",
        closed=True,
    )
    b.region((0, 0.09, r * 0.5), (r * 0.8, 0.03, r * 0.35), "glass", 3.0)
    b.region((0, 0.45, r * 0.25), (1, 0.32, r * 0.12), _part(rng, "glass", "dark", "second"), 10.0)
    height = r * rng.choice((-0.6, 0.0, 0.8))
    root, chord, sweep = u(0.36, 0.46), u(0.12, 0.2), u(0.0, 0.25)
    for s in (-1, 1):
        for start, size, z, reach, back in (
            (root, chord, height, span / 2, sweep),
            (0.88, 0.08, r * 0.9, span * 0.18, sweep * 0.4),
        ):
            rise = u(0.0, 0.05)
            tip = np.array([(s * reach, start + back, z + rise), (s * reach, start + back + size * 0.45, z + rise)])
            foot = np.array([(0, start, z), (0, start + size, z)])
            for dz in (0.006, -0.006):
                b.grid(
                    np.stack((foot + np.array((0, 0, dz)), tip + np.array((0, 0, dz * 0.4)))),
                    "second" if rng.random() < 0.3 else "paint",
                )
        if sweep > 0.08:
            x, y0 = s * span * 0.17, root + sweep * 0.34 - 0.02
            b.tube((x, y0 - 0.04, height - r * 0.5), (x, y0 + 0.1, height - r * 0.5), r * 0.45, "chrome", 10, "dark")
    b.plate([(0.84, r * 0.8), (0.98, r * 0.8), (1.03, r * 4.2), (0.95, r * 4.2)], 0, -0.006, 0.006, "second")
    return b.shape()


def quadruped(rng: np.random.Generator) -> Shape:
    """A four-legged animal: head to -y, tail at +y."""
    b, u = Builder(), rng.uniform
    length, leg, fat = u(0.6, 0.9), u(0.3, 0.55), u(0.12, 0.2)
    z = leg + fat * 0.7
    b.ellipsoid((0, length * 0.32, z), (fat * u(0.8, 1.1), length * 0.3, fat * 1.05), "paint")
    b.ellipsoid((0, -length * 0.12, z + 0.02), (fat * u(0.8, 1.1), length * 0.26, fat * u(1.05, 1.3)), "paint")
    neck, out = u(0.1, 0.4), u(0.15, 0.3)
    head = np.array((0, -length * 0.35 - out, z + neck))
    b.tube((0, -length * 0.28, z + 0.03), head, (fat * 0.7, fat * 0.45), "paint")
    size = u(0.07, 0.1)
    b.ellipsoid(
        head + size * np.array((0, -0.7, -0.2)), (size * 0.75, size * u(1.3, 2.0), size), _part(rng, "paint", "second")
    )
    for x in (-1, 1):
        ear = head + size * np.array((x * 0.6, 0.2, 0.8))
        b.tube(ear, ear + np.array((x * u(0, 0.05), 0.02, u(0.05, 0.14))), (0.025, 0.008), "second", 6)
        for y, at in ((-0.28, 0.02), (0.45, 0.0)):
            foot = (x * fat * 0.7, y * length + u(-0.05, 0.05), 0.0)
            b.tube((x * fat * 0.6, y * length + at, leg + 0.08), foot, (fat * 0.4, fat * 0.2), "paint", 8, "dark")
    b.tube(
        (0, length * 0.6, z + 0.05), (0, length * 0.6 + u(0.05, 0.2), z - u(-0.2, 0.25)), (0.025, 0.012), "second", 6
    )
    return b.shape()


def monitor(rng: np.random.Generator) -> Shape:
    """Screen to the front, tube or stand behind."""
    b, u = Builder(), rng.uniform
    w, h, d = u(0.6, 1.1), u(0.45, 0.65), u(0.03, 0.1)
    b.box((0, 0, h / 2 + 0.2), (w, d, h), "paint")
    b.region(
        (0, -d / 2, h / 2 + 0.22),
        (w * u(0.4, 0.46), d * 0.3, h * u(0.36, 0.44)),
        _part(rng, "glass", "decal_a", "dark"),
        12.0,
    )
    if rng.random() < 0.5:
        back = u(0.1, 0.4)
        b.tube((0, d / 2, h / 2 + 0.2), (0, d / 2 + back, h / 2 + 0.17), (h * 0.5, h * 0.25), "second", 4)
    b.tube((0, d * 0.4, 0.25), (0, d * 0.4 + 0.05, 0.02), 0.04, "second", 8)
    b.box((0, 0.06, 0.012), (w * u(0.3, 0.6), u(0.2, 0.35), 0.025), "second", (0.9, 0.9))
    for x in np.linspace(-0.3, 0.3, 4):
        b.region((x * w, -d / 2, 0.2 + 0.02), (0.012, 0.02, 0.01), "lamp_front", 2.0)
    return b.shape()


def jug(rng: np.random.Generator) -> Shape:
    """A turned body, spout to the front, handle behind."""
    b, u = Builder(), rng.uniform
    h = u(0.5, 0.9)
    t = np.linspace(0, 1, 12)
    radius = u(0.2, 0.3) * (0.7 + u(0.2, 0.6) * np.sin(np.pi * t ** u(0.6, 1.4)) - u(0, 0.3) * t)
    angle = np.linspace(0, 2 * np.pi, 20, endpoint=False)
    b.grid(
        np.stack(
            (radius[:, None] * np.sin(angle), -radius[:, None] * np.cos(angle), np.repeat(h * t[:, None], 20, 1)), -1
        ),
        "paint",
        closed=True,
    )
    b.ellipsoid((0, 0, h), (radius[-1], radius[-1], u(0.01, 0.1)), _part(rng, "paint", "second", "dark"))
    if rng.random() < 0.6:
        b.ellipsoid((0, 0, h + 0.08), (0.03, 0.03, 0.04), "second", 5, 8)
    low, out, top = u(0.3, 0.6) * h, u(0.12, 0.25), h * u(0.85, 1.05)
    b.tube((0, -radius[6] * 0.8, low), (0, -radius[6] - out, top), (0.06, 0.03), "paint", 8, "dark")
    knots = np.array(
        [
            (0, radius[9] * 0.9, h * 0.82),
            (0, radius[9] + u(0.1, 0.2), h * 0.8),
            (0, radius[5] + u(0.12, 0.2), h * 0.45),
            (0, radius[3] * 0.9, h * 0.28),
        ]
    )
    for first, last in pairwise(knots):
        b.tube(first, last, 0.025, "second", 6)
    b.region((0, 0, h * u(0.3, 0.7)), (1, 1, u(0.01, 0.06)), "second")
    return b.shape()


def cuboids(template: int) -> Callable[[np.random.Generator], Shape]:
    """A family of random solids: the same boxes, bars and balls for one ``template``; instances vary size and place."""

    def make(rng: np.random.Generator) -> Shape:
        """One object of the template, with proportions of its own."""
        plan, b = np.random.default_rng((777, template)), Builder()
        base = plan.uniform((0.3, 0.5, 0.12), (0.6, 1.0, 0.4))
        size = base * rng.uniform(0.8, 1.25, 3)
        b.box((0, 0, size[2] / 2), size, "paint", tuple(plan.uniform(0.6, 1.0, 2)))
        for _ in range(int(plan.integers(4, 8))):
            kind, paired = plan.integers(3), plan.random() < 0.6
            part = str(plan.choice(("paint", "second", "dark", "chrome", "glass")))
            at = plan.uniform((0.0, -0.5, -0.1), (0.5, 0.5, 1.2)) * size + rng.normal(0, 0.03, 3)
            extent = plan.uniform(0.06, 0.4, 3) * rng.uniform(0.75, 1.3, 3)
            present = rng.random() < 0.92
            for s in (1, -1) if paired else (1,):
                centre = at * ((s if paired else 0), 1, 1)
                if not present:
                    continue
                if kind == 0:
                    b.box(centre, extent, part, (0.8, 0.8))
                elif kind == 1:
                    b.ellipsoid(centre, extent / 2, part, 7, 10)
                else:
                    b.tube(centre, centre + extent * (0.3 * s * paired, -1, 0.8), extent[0] * 0.3, part, 8)
        for _ in range(int(plan.integers(2, 6))):
            centre = plan.uniform((-0.5, -0.55, 0.1), (0.5, 0.55, 0.9)) * size
            b.pair(
                centre,
                plan.uniform(0.02, 0.09, 3),
                str(plan.choice(("dark", "chrome", "plate", "lamp_front", "glass"))),
                float(plan.choice((2.0, 8.0))),
            )
        return b.shape()

    return make


FAMILIES: dict[str, Callable[[np.random.Generator], Shape]] = {
    "chair": chair, "sofa": sofa, "desk": desk, "boat": boat, "aeroplane": aeroplane, "quadruped": quadruped,
    "monitor": monitor, "jug": jug,
    **{f"solid{k:02d}": cuboids(k) for k in range(12)},
}  # fmt: skip
