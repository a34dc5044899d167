"""Procedural shapes: triangles with a part label each, built from a handful of primitives.

Everything lives in the object frame of :mod:`nvsm_lightning.geometry.viewpoints`: front to -y, the object's left to
+x, z up. Vertices are shared, and so smoothed, only within one call of :meth:`Builder.grid`: where two calls meet is a
crease. Small things (lamps, grille, door lines) are not triangles but *regions*: superellipsoids in object space in
which a point of the surface takes another part's look. They are cheap and sharp at any resolution.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TypeAlias

import numpy as np
from jaxtyping import Float, Int

# Part names in the order of their ids: what a material is chosen for. "paint", "second": the object's own two colours.
PARTS = (
    "paint",
    "second",
    "glass",
    "tyre",
    "rim",
    "dark",
    "lamp_front",
    "lamp_back",
    "chrome",
    "plate",
    "trim",
    "decal_a",
    "decal_b",
)
Pair: TypeAlias = Sequence[float | int] | np.ndarray  # of two numbers
Triple: TypeAlias = Sequence[float | int] | np.ndarray  # of three numbers
PART = {name: index for index, name in enumerate(PARTS)}


def triple(values: Triple) -> tuple[float, float, float]:
    """Three numbers as plain floats."""
    x, y, z = values
    return float(x), float(y), float(z)


@dataclass(frozen=True)
class Region:
    """Surface points with ``sum |(x - centre) / half| ** power < 1`` belong to ``part`` (2: ellipsoid, large: box)."""

    centre: tuple[float, float, float]
    half: tuple[float, float, float]
    part: str
    power: float = 8.0
    on: tuple[str, ...] = ("paint", "second")  # only points of these parts change


@dataclass(frozen=True)
class Shape:
    """A mesh with part labels, regions and named points.

    Attributes:
        vertices: object coordinates.
        faces: indices into ``vertices``.
        part: index into :data:`PARTS` of every face.
        regions: applied in order, later ones on top.
        keypoints: named points of the object (wheels, lamps), for the annotation files.
    """

    vertices: Float[np.ndarray, "vertex 3"]
    faces: Int[np.ndarray, "face 3"]
    part: Int[np.ndarray, " face"]
    regions: tuple[Region, ...] = ()
    keypoints: dict[str, tuple[float, float, float]] = field(default_factory=dict)

    def normalised(self) -> "Shape":
        """Centred on its bounding box, whose diagonal becomes 1: how PASCAL3D+ scales its CAD models."""
        low, high = self.vertices.min(0), self.vertices.max(0)
        centre, scale = (low + high) / 2, 1 / np.linalg.norm(high - low)

        def moved(point: Triple) -> tuple[float, float, float]:
            """A point in the normalised frame."""
            return triple((np.asarray(point) - centre) * scale)

        regions = tuple(
            Region(moved(r.centre), triple(np.asarray(r.half) * scale), r.part, r.power, r.on) for r in self.regions
        )
        keypoints = {name: moved(point) for name, point in self.keypoints.items()}
        return Shape(((self.vertices - centre) * scale).astype(np.float32), self.faces, self.part, regions, keypoints)

    def normals(self) -> Float[np.ndarray, "vertex 3"]:
        """Unit vertex normals, area weighted over the faces that share the vertex."""
        corner = self.vertices[self.faces]
        face = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
        normal = np.zeros_like(self.vertices)
        for k in range(3):
            np.add.at(normal, self.faces[:, k], face)
        return normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-12)


class Builder:
    """Collects primitives and regions into a :class:`Shape`, in any unit of length (see ``Shape.normalised``)."""

    def __init__(self) -> None:
        self._vertices: list[np.ndarray] = []
        self._faces: list[np.ndarray] = []
        self._part: list[np.ndarray] = []
        self._count = 0
        self.regions: list[Region] = []
        self.keypoints: dict[str, tuple[float, float, float]] = {}

    def shape(self) -> Shape:
        """Everything added so far, normalised."""
        return Shape(
            np.concatenate(self._vertices).astype(np.float32),
            np.concatenate(self._faces).astype(np.int64),
            np.concatenate(self._part).astype(np.int64),
            tuple(self.regions),
            dict(self.keypoints),
        ).normalised()

    def mesh(self, vertices: Float[np.ndarray, "v 3"], faces: Int[np.ndarray, "f 3"], part: str | np.ndarray) -> None:
        """Add triangles; ``part`` is one name, or one id a face."""
        self._vertices.append(np.asarray(vertices, float))
        self._faces.append(np.asarray(faces) + self._count)
        self._part.append(np.full(len(faces), PART[part]) if isinstance(part, str) else np.asarray(part))
        self._count += len(vertices)

    def grid(self, points: Float[np.ndarray, "rows columns 3"], part: str | np.ndarray, closed: bool = False) -> None:
        """Add a smooth sheet of quads; ``closed`` joins last and first column; ``part``: a name, or an id a quad."""
        rows, columns = points.shape[:2]
        index = np.arange(rows * columns).reshape(rows, columns)
        if closed:
            index = np.concatenate((index, index[:, :1]), 1)
        a, b, c, d = index[:-1, :-1], index[:-1, 1:], index[1:, 1:], index[1:, :-1]
        faces = np.stack((np.stack((a, b, c), -1), np.stack((a, c, d), -1)), 2).reshape(-1, 3)
        labels = part if isinstance(part, str) else np.repeat(np.asarray(part).reshape(-1), 2)
        self.mesh(points.reshape(-1, 3), faces, labels)

    def box(self, centre: Triple, size: Triple, part: str, taper: Pair = (1.0, 1.0), shift: Pair = (0.0, 0.0)) -> None:
        """A box with flat sides whose top face is scaled by ``taper`` in (x, y) and moved by ``shift``."""
        cx, cy, cz = centre
        hx, hy, hz = (s / 2 for s in size)
        low = np.array([(-hx, -hy), (hx, -hy), (hx, hy), (-hx, hy)])
        top = low * taper + shift
        bottom3 = np.c_[low + np.array((cx, cy)), np.full(4, cz - hz)]
        top3 = np.c_[top + np.array((cx, cy)), np.full(4, cz + hz)]
        for k in range(4):
            n = (k + 1) % 4
            self.grid(np.array([[bottom3[k], bottom3[n]], [top3[k], top3[n]]]), part)
        self.grid(np.array([[top3[0], top3[1]], [top3[3], top3[2]]]), part)
        self.grid(np.array([[bottom3[1], bottom3[0]], [bottom3[2], bottom3[3]]]), part)

    def tube(
        self,
        start: Triple,
        end: Triple,
        radius: float | tuple[float, float],
        part: str,
        sides: int = 12,
        cap: str | None = None,
    ) -> None:
        """A round bar or cone from ``start`` to ``end`` with flat ends (of part ``cap`` where given)."""
        start, end = np.asarray(start, float), np.asarray(end, float)
        first, last = radius if isinstance(radius, tuple) else (radius, radius)
        along = (end - start) / np.linalg.norm(end - start)
        side = np.cross(along, (0, 0, 1.0) if abs(along[2]) < 0.9 else (1.0, 0, 0))
        side /= np.linalg.norm(side)
        angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
        ring = np.cos(angle)[:, None] * side + np.sin(angle)[:, None] * np.cross(along, side)
        rings = np.stack((start + first * ring, end + last * ring))
        self.grid(rings, part, closed=True)
        for centre, points in ((start, rings[0]), (end, rings[1])):
            fan = np.array([(0, k + 1, (k + 1) % sides + 1) for k in range(sides)])
            self.mesh(np.concatenate((centre[None], points)), fan, cap or part)

    def ellipsoid(self, centre: Triple, radius: Triple, part: str, rings: int = 9, sides: int = 14) -> None:
        """A smooth ellipsoid with semi-axes ``radius``."""
        polar = np.linspace(-np.pi / 2, np.pi / 2, rings)[:, None]
        angle = np.linspace(0, 2 * np.pi, sides, endpoint=False)
        unit = np.stack((np.cos(polar) * np.cos(angle), np.cos(polar) * np.sin(angle), np.sin(polar) + 0 * angle), -1)
        self.grid(np.asarray(centre) + unit * np.asarray(radius), part, closed=True)

    def plate(self, outline: Sequence[Pair], axis: int, low: float, high: float, part: str) -> None:
        """A flat convex outline in the two axes other than ``axis``, thickened from ``low`` to ``high`` along it."""
        flat = np.asarray(outline, float)
        sides = [np.insert(flat, axis, np.full(len(flat), value), axis=1) for value in (low, high)]
        n = len(outline)
        for k in range(n):
            m = (k + 1) % n
            self.grid(np.array([[sides[0][k], sides[0][m]], [sides[1][k], sides[1][m]]]), part)
        fan = np.array([(0, k, k + 1) for k in range(1, n - 1)])
        for points in sides:
            self.mesh(points, fan, part)

    def region(
        self, centre: Triple, half: Triple, part: str, power: float = 8.0, on: tuple[str, ...] = ("paint", "second")
    ) -> None:
        """Add one :class:`Region`."""
        self.regions.append(Region(triple(centre), triple(half), part, power, on))

    def pair(
        self, centre: Triple, half: Triple, part: str, power: float = 8.0, on: tuple[str, ...] = ("paint", "second")
    ) -> None:
        """Add a region and its mirror image in x."""
        self.region(centre, half, part, power, on)
        self.region((-centre[0], *centre[1:]), half, part, power, on)

    def point(self, pattern: str, at: tuple[float, float, float], left: int) -> None:
        """Name a point with x > 0 and its mirror image; ``left`` is the sign of x of the one called "left".

        The release's names are those of a viewer who faces that end of the car: left in front is -x, at the back +x.
        """
        self.keypoints[pattern.format("left")] = (at[0] * left, at[1], at[2])
        self.keypoints[pattern.format("right")] = (-at[0] * left, at[1], at[2])


def half_outline(
    front: float, back: float, width: float, stations: Float[np.ndarray, " s"], power: float = 6.0, edge: int = 6
) -> Float[np.ndarray, "n 2"]:
    """Left half (x >= 0) of a rounded rectangle in plan, from the front edge's middle to the back edge's middle.

    Index k of two outlines means the same place (front edge, corner, side at fraction ``stations[i]``), so that stacked
    outlines can be joined point by point: a pillar is a line of constant k, whatever the rake.
    """
    middle, half = (front + back) / 2, (back - front) / 2
    diagonal = 0.5 ** (1 / power)
    x = np.linspace(0, diagonal, edge)
    end = (1 - x**power) ** (1 / power)
    y = np.interp(stations, (0, 1), (-diagonal, diagonal))[1:-1]
    side = (1 - np.abs(y) ** power) ** (1 / power)
    points = np.concatenate((np.c_[x, -end], np.c_[side, y], np.c_[x, end][::-1]))
    return points * (width, half) + (0, middle)


def full_ring(half: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "m 3"]:
    """A left half and its mirror image (middle points not doubled): a ring, counter-clockwise seen from +z."""
    return np.concatenate((half, half[-2:0:-1] * (-1, 1, 1)))


def lid(half: Float[np.ndarray, "n 3"], crown: float, columns: int = 9) -> Float[np.ndarray, "n columns 3"]:
    """The sheet that covers a ring, bulging by ``crown`` in the middle (less where the ring is narrow)."""
    s = np.linspace(-1, 1, columns)
    sheet = np.repeat(half[:, None], columns, 1)
    sheet[..., 0] *= s
    sheet[..., 2] += crown * (1 - s**2) * (half[:, :1] / half[:, 0].max())
    return sheet
