"""Drawing a pose over a picture: the projected cuboid, its front face tinted, and an arrow where the object looks."""

from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nvsm_lightning.geometry.cameras import Camera, project
from nvsm_lightning.geometry.meshes import Mesh
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint

Colour = tuple[int, int, int]
PREDICTED: Colour = (255, 140, 0)  # orange and blue can be told apart with any colour vision
TRUTH: Colour = (40, 150, 255)
TINT = 120  # of 255: what lies below is still seen
SUPERSAMPLING = 2  # lines of PIL are not smoothed: they are drawn twice as large and shrunk; the picture is not
# Corners are numbered by the bits (x, y, z): 1 = high. The front looks along -y, so its corners have bit y = 0.
EDGES = ((0, 1), (2, 3), (4, 5), (6, 7), (0, 2), (1, 3), (4, 6), (5, 7), (0, 4), (1, 5), (2, 6), (3, 7))
FRONT = (0, 1, 5, 4)


def project_cuboid(
    mesh: Mesh, viewpoint: Float[Tensor, " 3"], camera: Camera
) -> tuple[Float[Tensor, "8 2"], Float[Tensor, "2 2"], int]:
    """Pixels of the eight corners of the mesh's bounding cuboid and of the arrow from its front face forward; the far
    corner.

    Corner ``x + 2 y + 4 z`` has the high end of each axis whose bit is one. A box camera is fitted to the corners
    alone, so that the arrow, which leaves the cuboid, does not shrink it.

    Args:
        mesh: CAD units, object frame of :mod:`nvsm_lightning.geometry.viewpoints`.
        viewpoint: radians.
        camera: of one picture.
    """
    low, high = mesh.vertices.amin(0).cpu().float(), mesh.vertices.amax(0).cpu().float()
    bits = torch.tensor([[number >> axis & 1 for axis in range(3)] for number in range(8)])
    corners = torch.where(bits.bool(), high, low)
    middle, reach = (low + high) / 2, 0.3 * (high - low).max()
    tail = torch.stack((middle[0], low[1], middle[2]))
    arrow = torch.stack((tail, tail - torch.tensor([0.0, 1.0, 0.0]) * reach))
    rotation = rotation_from_viewpoint(viewpoint.cpu().float())[None]
    camera = camera.to("cpu", torch.float32)
    free = Camera(camera.distance, camera.focal, camera.principal, torch.full_like(camera.box, torch.nan))
    uvz = project(torch.cat((corners, arrow)), rotation, free)[0]
    uv, far = uvz[:, :2], int(uvz[:8, 2].argmax())
    if camera.box.isfinite().all():
        plane, box = uv[:8], camera.box[0]
        extent = (plane.amax(0) - plane.amin(0)).clamp_min(1e-9)
        uv = box[:2] + (uv - plane.amin(0)) / extent * (box[2:] - box[:2])
    return uv[:8], uv[8:], far


def overlay(
    image: Float[Tensor, "3 height width"],
    camera: Camera,
    mesh: Mesh,
    poses: Sequence[tuple[Float[Tensor, "3_or_6"], Colour]],
    width: int = 384,
) -> Image.Image:
    """The picture (RGB in 0..1) with a cuboid for each (viewpoint in radians, colour), ``width`` pixels wide.

    A viewpoint that is not finite is not drawn. It may be followed by the object's placement (``Camera.placed``, in
    pixels of ``image``; NaN: where the camera says).
    """
    picture = to_image(image)
    canvas = picture.resize((width, round(picture.height * width / picture.width)), Image.Resampling.BICUBIC)
    canvas = canvas.convert("RGBA")
    scale = width * SUPERSAMPLING / picture.width
    for pose, colour in poses:
        viewpoint, placement = pose[:3], pose[3:].nan_to_num()
        if not viewpoint.isfinite().all():
            continue
        seen = camera.placed(placement.to(camera.principal)[None]) if len(placement) else camera
        corners, arrow, far = project_cuboid(mesh, viewpoint, seen.scaled(scale))
        tail, head = arrow.tolist()
        # Transparent in the colour itself: black would bleed into the edges when they are averaged.
        layer = Image.new("RGBA", (canvas.width * SUPERSAMPLING, canvas.height * SUPERSAMPLING), (*colour, 0))
        draw = ImageDraw.Draw(layer)
        points = [tuple(corner) for corner in corners.tolist()]
        draw.polygon([points[corner] for corner in FRONT], fill=(*colour, 70))
        stroke = max(2, SUPERSAMPLING * width // 190)
        for start, end in EDGES:
            hidden = far in (start, end)  # the three edges at the far corner are behind the object
            opacity, width_ = (110, stroke // 2) if hidden else (230, stroke)
            draw.line((*points[start], *points[end]), fill=(*colour, opacity), width=width_)
        _arrow(draw, tail, head, (*colour, 255), stroke + 2)
        canvas = Image.alpha_composite(canvas, layer.reduce(SUPERSAMPLING))
    return canvas.convert("RGB")


def tinted(
    image: Float[Tensor, "3 height width"],
    cells: Sequence[tuple[Bool[Tensor, "h w"], Colour]],
    stride: int,
    width: int = 384,
) -> Image.Image:
    """The picture (RGB in 0..1), ``width`` pixels wide, with a tint over the map cells of each (mask, colour)."""
    picture = to_image(image)
    size = (width, round(picture.height * width / picture.width))
    canvas = picture.resize(size, Image.Resampling.BICUBIC).convert("RGBA")
    for mask, colour in cells:
        opacity = (mask.cpu().to(torch.uint8) * TINT).numpy()
        spread = Image.fromarray(opacity).resize((mask.shape[1] * stride, mask.shape[0] * stride), Image.Resampling.BOX)
        layer = Image.new("RGBA", size, (*colour, 0))
        layer.putalpha(spread.resize(size, Image.Resampling.NEAREST))
        canvas = Image.alpha_composite(canvas, layer)
    return canvas.convert("RGB")


def captioned(picture: Image.Image, lines: Sequence[str], size: int = 13) -> Image.Image:
    """The picture above white lines of text, cut to its width."""
    font = ImageFont.load_default(size)
    height = len(lines) * (size + 4) + 6
    canvas = Image.new("RGB", (picture.width, picture.height + height), "white")
    canvas.paste(picture)
    draw = ImageDraw.Draw(canvas)
    for number, line in enumerate(lines):
        while line and draw.textlength(line, font) > picture.width - 8:
            line = line[:-2].rstrip("…") + "…"
        draw.text((4, picture.height + 2 + number * (size + 4)), line, "black", font)
    return canvas


def to_image(image: Float[Tensor, "3 height width"]) -> Image.Image:
    """RGB in 0..1 (or bytes) as a PIL picture."""
    if image.dtype != torch.uint8:
        image = (image.float().clamp(0, 1) * 255).round().to(torch.uint8)
    return Image.fromarray(image.permute(1, 2, 0).contiguous().cpu().numpy())


def _arrow(draw: ImageDraw.ImageDraw, tail: list[float], head: list[float], fill: tuple[int, ...], stroke: int) -> None:
    """A line with a filled triangular head; only the head where the arrow points into the picture."""
    dx, dy = head[0] - tail[0], head[1] - tail[1]
    length = max((dx * dx + dy * dy) ** 0.5, 1e-6)
    dx, dy, tip = dx / length, dy / length, 4.0 * stroke
    neck = (head[0] - dx * tip, head[1] - dy * tip)
    draw.line((*tail, *neck), fill=fill, width=stroke)
    draw.polygon(
        [
            tuple(head),
            (neck[0] - dy * tip / 2, neck[1] + dx * tip / 2),
            (neck[0] + dy * tip / 2, neck[1] - dx * tip / 2),
        ],
        fill=fill,
    )
