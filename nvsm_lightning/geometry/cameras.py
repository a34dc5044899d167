"""Pinhole cameras of canonical crops, and the box camera for pictures of which only a box is known.

Convention: continuous picture coordinates, (0, 0) is the outer corner of the top-left pixel and pixel (i, j) has its
centre at (j + 0.5, i + 0.5); u grows right, v grows down. Lengths of the object are CAD units (a PASCAL3D+ model is
about one unit long). The camera looks at the object's centre from ``distance``; the centre falls on ``principal``.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@dataclass(frozen=True)
class Camera:
    """A batch of cameras.

    Attributes:
        distance: from the camera to the object's centre, CAD units.
        focal: focal length in pixels.
        principal: pixel onto which the object's centre projects.
        box: (x1, y1, x2, y2) in pixels, or NaN. Where it is finite the picture's own camera is unknown: the projected
            mesh is then stretched so that its bounding box is this box (the *box camera*), and only ``distance``
            matters (perspective).
    """

    distance: Float[Tensor, " batch"]
    focal: Float[Tensor, " batch"]
    principal: Float[Tensor, "batch 2"]
    box: Float[Tensor, "batch 4"]
    frame: Float[Tensor, "batch 4"] | None = None

    def __post_init__(self) -> None:
        if self.frame is None:
            everything = self.box.new_tensor([-torch.inf, -torch.inf, torch.inf, torch.inf])
            object.__setattr__(self, "frame", everything.expand_as(self.box))

    def __len__(self) -> int:
        return len(self.distance)

    def __getitem__(self, item) -> "Camera":
        return Camera(*(tensor[item] for tensor in self.tensors()))

    def to(self, *args, **kwargs) -> "Camera":
        """All tensors moved or cast, as ``Tensor.to``."""
        return Camera(*(tensor.to(*args, **kwargs) for tensor in self.tensors()))

    def tensors(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """(distance, focal, principal, box, frame)."""
        assert self.frame is not None  # set in __post_init__
        return self.distance, self.focal, self.principal, self.box, self.frame

    def scaled(self, factor: float) -> "Camera":
        """The same cameras for a picture resized by ``factor`` (``1 / stride``: the cameras of the feature map)."""
        distance, focal, principal, box, frame = self.tensors()
        return Camera(distance, focal * factor, principal * factor, box * factor, frame * factor)

    def placed(self, placement: Float[Tensor, "batch 3"]) -> "Camera":
        """The camera of an object that stands elsewhere than its labels say: ``placement`` is the logarithm of a factor
        on its distance and a shift (u, v) in the picture, in this camera's pixels.
        """
        distance, focal, principal, box, frame = self.tensors()
        shift = placement[:, 1:]
        return Camera(distance * placement[:, 0].exp(), focal, principal + shift, box + shift.repeat(1, 2), frame)

    def shows(self, size: tuple[int, int]) -> Bool[Tensor, "batch height width"]:
        """Cells of a map of (height, width) whose centre lies in the stored picture; for cameras in map pixels."""
        x1, y1, x2, y2 = (edge[:, None, None] for edge in self.tensors()[-1].unbind(-1))
        v, u = (torch.arange(count, device=x1.device) + 0.5 for count in size)
        return (u > x1) & (u < x2) & (v[:, None] > y1) & (v[:, None] < y2)

    def expanded(self, poses: int) -> "Camera":
        """Every camera repeated ``poses`` times in a row: entry ``b * poses + p`` is camera ``b``."""
        return Camera(*(tensor.repeat_interleave(poses, 0) for tensor in self.tensors()))

    @staticmethod
    def stack(cameras: "list[Camera]") -> "Camera":
        """One batch from several, in order."""
        return Camera(*(torch.cat(parts) for parts in zip(*(camera.tensors() for camera in cameras), strict=True)))


def canonical_camera(height: int, width: int, pixels_per_unit: float = 600.0, distance: float = 5.0) -> Camera:
    """The camera of a canonical crop: object centre in the middle, ``pixels_per_unit`` there.

    NeMo: 600 at distance 5, so that the focal length is 3000.
    """
    return Camera(
        distance=torch.tensor([distance]),
        focal=torch.tensor([distance * pixels_per_unit]),
        principal=torch.tensor([[width / 2, height / 2]]),
        box=torch.full((1, 4), torch.nan),
    )


def mirror_camera(camera: Camera, width: float | int) -> Camera:
    """The camera of the left-right mirrored picture of ``width`` pixels."""
    principal = torch.stack((width - camera.principal[:, 0], camera.principal[:, 1]), -1)
    box, frame = (
        torch.stack((width - x2, y1, width - x1, y2), -1)
        for x1, y1, x2, y2 in (edges.unbind(-1) for edges in camera.tensors()[-2:])
    )
    return Camera(camera.distance, camera.focal, principal, box, frame)


def project(
    points: Float[Tensor, "point 3"], rotation: Float[Tensor, "batch 3 3"], camera: Camera
) -> Float[Tensor, "batch point 3"]:
    """Project object points: (u, v, depth), pixels and CAD units; depth is along the optical axis, positive in front.

    ``u = px + f X / Z``, ``v = py + f Y / Z`` with ``(X, Y, Z) = R x + (0, 0, distance)`` in the OpenCV frame.
    Where ``camera.box`` is finite, u and v are stretched per axis until the extent of ``points`` is the box.
    """
    with torch.autocast(points.device.type, enabled=False):  # bf16 would move vertices by a tenth of a map cell
        in_camera = torch.einsum("bij,vj->bvi", rotation, points)
    depth = in_camera[..., 2] + camera.distance[:, None]
    plane = in_camera[..., :2] / depth.clamp_min(1e-3)[..., None]
    uv = camera.principal[:, None] + camera.focal[:, None, None] * plane
    boxed = camera.box.isfinite().all(-1)
    if boxed.any():
        low, high = plane.amin(1, keepdim=True), plane.amax(1, keepdim=True)
        box = torch.where(boxed[:, None], camera.box, 0)  # a NaN in the branch not taken would still reach the gradient
        corner, size = box[:, None, :2], box[:, None, 2:] - box[:, None, :2]
        fitted = corner + (plane - low) / (high - low).clamp_min(1e-9) * size
        uv = torch.where(boxed[:, None, None], fitted, uv)
    return torch.cat((uv, depth[..., None]), -1)
