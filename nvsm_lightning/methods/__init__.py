"""LightningModules: one file a method, assembly only.

Importing this room makes ``class_path: NVSM`` work in a configuration.
"""

from nvsm_lightning.methods.nemo import NeMo
from nvsm_lightning.methods.nvsm import NVSM

__all__ = ["NVSM", "NeMo"]
