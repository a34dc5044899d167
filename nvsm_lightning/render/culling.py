"""Whether the far side of a mesh can be left out when it is drawn."""

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor


def hides_its_back(vertices: Float[Tensor, "vertex 3"], faces: Int[Tensor, "face 3"]) -> bool:
    """Whether the mesh is closed with outward winding, so that from outside a face seen from behind never shows.

    Closed: every edge is run through once in each direction. Outward: the enclosed volume is positive.
    """
    triangles = faces.detach().cpu().numpy().astype(np.int64)
    edges = np.concatenate([triangles[:, pair] for pair in ((0, 1), (1, 2), (2, 0))])
    count = len(vertices)
    there, back = edges @ (count, 1), edges @ (1, count)
    if not len(there) or len(np.unique(there)) < len(there) or not np.array_equal(np.sort(there), np.sort(back)):
        return False
    corners = vertices.detach().cpu().double().numpy()[triangles]
    return float(np.linalg.det(corners).sum()) > 0
