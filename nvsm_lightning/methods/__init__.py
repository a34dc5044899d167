"""LightningModules: one file a method, assembly only.

Importing this room makes ``class_path: NVSM`` work in a configuration.
"""

import torch

from nvsm_lightning.features.backbone import BackboneSpec, TrunkSpec
from nvsm_lightning.matching.matcher import MatchSettings
from nvsm_lightning.matching.selection import SelectionSettings
from nvsm_lightning.methods.category_mesh import MeshSpec
from nvsm_lightning.methods.nearest import Nearest
from nvsm_lightning.methods.nemo import NeMo
from nvsm_lightning.methods.neural_mesh import BankSettings
from nvsm_lightning.methods.nvsm import NVSM
from nvsm_lightning.methods.prior import Prior
from nvsm_lightning.methods.random import Random
from nvsm_lightning.methods.res50_general import Res50General
from nvsm_lightning.methods.res50_specific import Res50Specific
from nvsm_lightning.methods.starmap import StarMap
from nvsm_lightning.pose.solver import SolverSettings
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.training.contrast import ContrastSettings

__all__ = ["NVSM", "NeMo", "Nearest", "Prior", "Random", "Res50General", "Res50Specific", "StarMap"]

# Checkpoints of methods made in Python hold these as hyper-parameters (those of the command line hold plain
# dictionaries), and torch.load opens only files of classes that it has been told of.
torch.serialization.add_safe_globals(
    [
        BackboneSpec,
        TrunkSpec,
        MeshSpec,
        BankSettings,
        ContrastSettings,
        PoseSpace,
        SolverSettings,
        MatchSettings,
        SelectionSettings,
    ]
)
