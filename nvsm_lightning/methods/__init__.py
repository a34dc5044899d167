"""LightningModules: one file a method, assembly only.

Importing this room makes ``class_path: NVSM`` work in a configuration.
"""

import torch

from nvsm_lightning.features.backbone import BackboneSpec
from nvsm_lightning.matching.matcher import MatchSettings
from nvsm_lightning.matching.selection import SelectionSettings
from nvsm_lightning.methods.nemo import NeMo
from nvsm_lightning.methods.neural_mesh import BankSettings, MeshSpec
from nvsm_lightning.methods.nvsm import NVSM
from nvsm_lightning.pose.solver import SolverSettings
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.training.contrast import ContrastSettings

__all__ = ["NVSM", "NeMo"]

# Checkpoints of methods made in Python hold these as hyper-parameters (those of the command line hold plain
# dictionaries), and torch.load opens only files of classes that it has been told of.
torch.serialization.add_safe_globals(
    [
        BackboneSpec,
        MeshSpec,
        BankSettings,
        ContrastSettings,
        PoseSpace,
        SolverSettings,
        MatchSettings,
        SelectionSettings,
    ]
)
