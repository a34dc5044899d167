"""The Triton engine in Triton's interpreter: the arithmetic, not the compiled code. No test here has seen a GPU."""

import os
import subprocess
import sys

import pytest

pytest.importorskip("triton")
# In a process of its own: Triton chooses the interpreter when it is imported.
SCRIPT = """
import torch
from nvsm_lightning.geometry.cameras import canonical_camera, project
from nvsm_lightning.geometry.meshes import cuboid
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.render.raster_torch import rasterize_torch
from nvsm_lightning.render.raster_triton import BLOCK, rasterize_triton

size, mesh = (12, 20), cuboid((-0.2, -0.45, -0.15), (0.2, 0.45, 0.15), 90)
viewpoint = torch.tensor([(0.4, 0.3, 0.1), (2.5, 0.1, -0.2), (4.0, -0.2, 0.0)])
uvz = project(mesh.vertices, rotation_from_viewpoint(viewpoint), canonical_camera(*size, 18.0).expanded(3))
for cull in (False, True):
    found, expected = rasterize_triton(uvz, mesh.faces, size, cull), rasterize_torch(uvz, mesh.faces, size)
    assert (expected >= 0).sum() > 100 and (found == expected).double().mean() > 0.998
twice = torch.cat((mesh.faces, mesh.faces))  # every face again, in another program: the first of two wins
assert len(twice) > BLOCK
assert (rasterize_triton(uvz, twice, size) == rasterize_torch(uvz, mesh.faces, size)).double().mean() > 0.998
uvz[0, 0, 2], uvz[1, 3, 0] = -1.0, torch.nan  # faces behind the camera, and such without a place, are dropped
found, expected = rasterize_triton(uvz, mesh.faces, size), rasterize_torch(uvz, mesh.faces, size)
assert (found == expected).double().mean() > 0.998
"""


def test_it_draws_what_torch_draws() -> None:
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT], env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-2000:]
