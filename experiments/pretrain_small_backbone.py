"""Recipe of the small backbone that ships with the package (``backbone.weights: packaged``).

It is trained contrastively (the loss of NeMo, all families in one softmax) on our own renders of other categories:
chairs, tables, boats and so on, and no car. A network trained from nothing on 7 pictures has no features to match in
the first E-step; ImageNet weights cannot be shipped. Run from the repository's root; about 15 minutes on 2 cores; the
result is deterministic on one machine:

    python experiments/pretrain_small_backbone.py --out nvsm_lightning/features/small.pt
"""

import argparse
from pathlib import Path

import torch
from PIL import Image
from rich.progress import track
from torch import Tensor

from nvsm_lightning.data.augment import Augmentation, augment
from nvsm_lightning.features.backbone import STRIDE, Backbone, BackboneSpec
from nvsm_lightning.features.bank import FeatureBank
from nvsm_lightning.features.reading import read_vertices
from nvsm_lightning.geometry.cameras import Camera, project
from nvsm_lightning.geometry.meshes import Mesh, cuboid
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.render.renderer import FeatureRenderer
from nvsm_lightning.toy.dataset import OtherSample, make_other
from nvsm_lightning.toy.objects import FAMILIES
from nvsm_lightning.training.contrast import (
    ContrastSettings,
    background_loss,
    contrastive_loss,
    draw_background,
    near_vertices,
)

HEIGHT, WIDTH, PIXELS_PER_UNIT = 144, 208, 200.0


def crop(sample: OtherSample) -> tuple[Tensor, Camera]:
    """The picture at canonical scale, the object's centre in the middle: uint8 [3, H, W] and its camera."""
    distance, focal = float(sample.camera.distance), float(sample.camera.focal)
    scale = PIXELS_PER_UNIT * distance / focal
    x, y = sample.camera.principal[0].tolist()
    corner = (x - WIDTH / 2 / scale, y - HEIGHT / 2 / scale)
    affine = (1 / scale, 0, corner[0], 0, 1 / scale, corner[1])
    picture = Image.fromarray(sample.image).transform(
        (WIDTH, HEIGHT), Image.Transform.AFFINE, affine, Image.Resampling.BILINEAR, fillcolor=(124, 116, 104)
    )
    image = torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).view(HEIGHT, WIDTH, 3).permute(2, 0, 1)
    centre = torch.tensor([[WIDTH / 2, HEIGHT / 2]])
    return image.contiguous(), Camera(
        torch.tensor([distance]), torch.tensor([distance * PIXELS_PER_UNIT]), centre, torch.full((1, 4), torch.nan)
    )


class Families:
    """One grid of vertices for each family, stretched to each instance: vertex k is the same place on all chairs."""

    def __init__(self, samples: list[OtherSample], vertices: int) -> None:
        self.names = sorted({sample.family for sample in samples})
        self.unit, self.extent, self.offset, near = {}, {}, {}, []
        total = 0
        for name in self.names:
            low = torch.tensor([s.low for s in samples if s.family == name]).mean(0)
            high = torch.tensor([s.high for s in samples if s.family == name]).mean(0)
            mesh = cuboid(tuple(low.tolist()), tuple(high.tolist()), vertices)
            self.unit[name] = Mesh((mesh.vertices - low) / (high - low), mesh.faces)
            near.append(near_vertices(mesh.vertices, 0.1))
            self.offset[name] = total
            total += len(mesh.vertices)
        self.total, self.near = total, torch.block_diag(*(part.float() for part in near)).bool()

    def mesh(self, sample: OtherSample) -> Mesh:
        """The cuboid of this very instance."""
        low, high = torch.tensor(sample.low), torch.tensor(sample.high)
        return Mesh(low + self.unit[sample.family].vertices * (high - low), self.unit[sample.family].faces)


def train(count: int, epochs: int, batch_size: int, seed: int, dim: int, vertices: int) -> Backbone:
    """Train a small backbone on ``count`` pictures of other categories."""
    torch.manual_seed(seed)
    samples = list(track(make_other(count, seed=seed), "Rendering other categories", total=count))
    crops = [crop(sample) for sample in samples]
    families = Families(samples, vertices)
    backbone = Backbone(BackboneSpec("small", "none", dim=dim, frozen=[], center=False)).train()
    bank, settings = FeatureBank(families.total, dim), ContrastSettings()
    optimizer = torch.optim.AdamW(backbone.parameters(), 2e-3, weight_decay=1e-2)
    steps = epochs * (count // batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=steps)
    changes, size = Augmentation(), (HEIGHT // STRIDE, WIDTH // STRIDE)
    for epoch in range(epochs):
        order = torch.randperm(count, generator=torch.Generator().manual_seed(seed * 1000 + epoch))
        total = 0.0
        for chosen in track(order.split(batch_size)[: count // batch_size], f"epoch {epoch + 1} of {epochs}"):
            images, places, masks, seen = [], [], [], torch.zeros(batch_size, families.total, dtype=torch.bool)
            for row, index in enumerate(chosen.tolist()):
                sample, (picture, camera) = samples[index], crops[index]
                generator = torch.Generator().manual_seed(epoch * count + index)
                image, camera, viewpoint = augment(picture, camera, sample.viewpoint, changes, generator, False)
                mesh = families.mesh(sample)
                renderer = FeatureRenderer(mesh, size)
                uvz = project(mesh.vertices, rotation_from_viewpoint(viewpoint[None]), camera.scaled(1 / STRIDE))
                start = families.offset[sample.family]
                uv = torch.zeros(families.total, 2)
                uv[start : start + len(mesh.vertices)] = uvz[0, :, :2]
                seen[row, start : start + len(mesh.vertices)] = renderer.visible(uvz)[0]
                images.append(image)
                places.append(uv)
                masks.append(renderer.fragments(uvz).mask)
            feature_map = backbone(torch.stack(images))
            features = read_vertices(feature_map, torch.stack(places))
            covered = torch.cat(masks)
            noise = draw_background(feature_map, covered, 5, torch.rand(covered.shape))
            means, clutter = bank.vertex.clone(), bank.clutter[: max(1, int(bank.clutter_filled))].clone()
            loss = contrastive_loss(features, seen, torch.ones(batch_size), means, clutter, families.near, settings)
            loss = loss + settings.background_weight * background_loss(noise, means)
            bank.update(features.detach(), seen, noise.detach())
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
            total += loss.item()
        print(f"epoch {epoch + 1}: loss {total / (count // batch_size):.3f}", flush=True)
    return backbone


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2400, help=f"pictures, shared among {len(FAMILIES)} families")
    parser.add_argument("--epochs", type=int, default=16)
    parser.add_argument("--batch_size", type=int, default=16)
    parser.add_argument("--vertices", type=int, default=250, help="of each family's cuboid")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    backbone = train(
        settings.count, settings.epochs, settings.batch_size, settings.seed, settings.dim, settings.vertices
    )
    state = {key: value.half() for key, value in backbone.state_dict().items() if key.startswith(("trunk.", "head."))}
    torch.save(state, settings.out)
    print(f"wrote {settings.out}: {settings.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
