"""Seconds and memory of an E-step over a very large pool: links to the pictures of the embedded set, again and again.

    python experiments/pool_memory.py --root data/toy_cars --pool 20000

20,000 pictures on one core: 231 s of processor time and 2.16 GB at most, of which 1.0 GB are decoded crops
(--data.keep_crops) and 1.0 GB the program before the first picture; 2.03 GB after 2,000 pictures, 2.02 GB after 12,000.
All crops would be 1.7 GB, and all feature maps 4.6 GB more.
"""

import argparse
import resource
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from nvsm_lightning.data import CropSpec, ToyCars
from nvsm_lightning.data.record import Record
from nvsm_lightning.features.backbone import BackboneSpec
from nvsm_lightning.matching.selection import SelectionSettings
from nvsm_lightning.methods import NVSM
from nvsm_lightning.methods.neural_mesh import MeshSpec
from nvsm_lightning.pose.space import PoseSpace
from nvsm_lightning.training.schedule import EMSchedule
from nvsm_lightning.training.trainer import EMTrainer


class Many(ToyCars):
    """The embedded set with its train pictures linked until the pool has ``pool`` of them.

    Args:
        links: folder for the links.
        pool: number of pool pictures.
        kwargs: as ToyCars.
    """

    def __init__(self, links: Path, pool: int, **kwargs) -> None:
        super().__init__(**kwargs)
        self.links, self.count = links, pool

    def read(self, root: Path, test_only: bool = False) -> list[Record]:
        """See ``PoseData.read``."""
        records = super().read(root, test_only)
        train = [record for record in records if record.part in ("train", "")]
        for number in range(self.count + self.labels - len(train)):
            record = train[number % len(train)]
            link = self.links / f"{number:06d}{record.image.suffix}"
            link.symlink_to(record.image.resolve())
            records.append(replace(record, image=link, key=link.name, part="train"))
        return records


def main() -> None:
    """Run one E-step and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data/toy_cars")
    parser.add_argument("--pool", type=int, default=20000)
    parser.add_argument("--keep_crops", type=int, default=1000)
    options = parser.parse_args()
    space = PoseSpace(24, [3.0, 12.0, 22.0], [0.0], ["azimuth", "elevation", "theta"])
    method = NVSM(
        backbone=BackboneSpec(name="small", weights="packaged"), mesh=MeshSpec(vertices=400), space=space,
        selection=SelectionSettings(ring_deg=180.0),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        data = Many(
            Path(folder), options.pool, root=options.root, label_seed=0, crop=CropSpec(112, 256, 240.0),
            keep_crops=options.keep_crops, epoch_images=16,
        )  # fmt: skip
        trainer = EMTrainer(
            em=EMSchedule(1, 1), max_epochs=1, accelerator="cpu", devices=1, logger=False, enable_checkpointing=False,
            enable_model_summary=False, precision="bf16-mixed", default_root_dir=folder, limit_val_batches=0,
            use_distributed_sampler=False,
        )  # fmt: skip
        start, busy = time.perf_counter(), time.process_time()
        trainer.fit(method, data)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    seconds, work = time.perf_counter() - start, time.process_time() - busy
    print(f"{len(data.pool)} pool pictures: {seconds:.0f} s, {work:.0f} s of processor time, at most {peak:.2f} GB")
    print(f"threads: {torch.get_num_threads()}")


if __name__ == "__main__":
    main()
