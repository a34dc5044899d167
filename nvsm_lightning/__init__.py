"""nvsm_lightning: few-shot, robust, category-level 3D object pose from single pictures.

Importing the package imports nothing heavy; pick the room you need, for example
``from nvsm_lightning.geometry import viewpoints``.
"""

__version__ = "0.1.0"
