"""Pictures as a camera turned towards the object would have taken them.

Far from the middle of a wide picture an object looks stretched: at 30 degrees by a third. The cameras here look
straight at the object; a turn about the camera's own place is all it takes to make that true, and it needs no depth.
"""

import math

import numpy as np
from PIL import Image

Warp = tuple[float, float, float, float, float, float, float, float]


def warp_towards(pixel: tuple[float, float], focal: float, middle: tuple[float, float]) -> Warp:
    """The warp of a camera turned until ``pixel`` lies at ``middle``, level as before: same focal length, same place.

    Args:
        pixel: of the stored picture.
        focal: of the stored picture, pixels.
        middle: its optical centre; there the object is in the turned picture.

    Returns:
        The first eight entries, row by row, of the homography from turned to stored pixels whose last entry is 1.
    """
    optics = np.array([[focal, 0.0, middle[0]], [0.0, focal, middle[1]], [0.0, 0.0, 1.0]])
    forward = np.linalg.solve(optics, np.array([*pixel, 1.0]))
    forward /= np.linalg.norm(forward)
    right = np.array([forward[2], 0.0, -forward[0]]) / math.hypot(forward[0], forward[2])  # down x forward
    turned = np.stack((right, np.cross(forward, right), forward))  # rows: axes of the turned camera
    matrix = optics @ turned.T @ np.linalg.inv(optics)
    entries = (matrix / matrix[2, 2]).ravel().tolist()
    return tuple(entries[:8])  # type: ignore[return-value]


def turn(picture: Image.Image, warp: Warp, fill: tuple[int, int, int]) -> Image.Image:
    """The turned picture, of the same size; ``fill`` where the stored one shows nothing."""
    colours = picture.convert("RGB")
    return colours.transform(picture.size, Image.Transform.PERSPECTIVE, warp, Image.Resampling.BICUBIC, fillcolor=fill)


def edges_after(size: tuple[int, int], warp: Warp, middle: tuple[float, float]) -> tuple[float, float, float, float]:
    """Edges (x1, y1, x2, y2) of the stored picture in the turned one, in the row and the column through ``middle``."""
    width, height = size
    matrix = np.linalg.inv(np.array([*warp, 1.0]).reshape(3, 3))
    column, row, scale = np.array([*warp, 1.0]).reshape(3, 3) @ (*middle, 1.0)
    u, v = column / scale, row / scale
    sides = matrix @ np.array([[0.0, u, width, u], [v, 0.0, v, height], [1.0, 1.0, 1.0, 1.0]])
    x, y = sides[:2] / sides[2]
    return max(float(x[0]), 0.0), max(float(y[1]), 0.0), min(float(x[2]), width), min(float(y[3]), height)
