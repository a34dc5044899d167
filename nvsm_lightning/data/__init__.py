"""Pictures and labels: one reader per data set, canonical crops, few-shot label draws, and the data module."""

from nvsm_lightning.data.augment import Augmentation
from nvsm_lightning.data.crops import CropSpec, canonical_crop
from nvsm_lightning.data.datasets import Batch
from nvsm_lightning.data.epfl import EPFLCars
from nvsm_lightning.data.eth80 import ETH80
from nvsm_lightning.data.kitti import KITTI
from nvsm_lightning.data.module import PoseData
from nvsm_lightning.data.objectnet3d import ObjectNet3D
from nvsm_lightning.data.occluded_pascal3d import OccludedPascal3D
from nvsm_lightning.data.pascal3d import Pascal3D
from nvsm_lightning.data.pose_csv import PoseCSV
from nvsm_lightning.data.record import Record
from nvsm_lightning.data.stanford import StanfordCars
from nvsm_lightning.data.toy import ToyCars

__all__ = [
    "ETH80",
    "KITTI",
    "Augmentation",
    "Batch",
    "CropSpec",
    "EPFLCars",
    "ObjectNet3D",
    "OccludedPascal3D",
    "Pascal3D",
    "PoseCSV",
    "PoseData",
    "Record",
    "StanfordCars",
    "ToyCars",
    "canonical_crop",
]
