"""Recipe of the small backbone that ships with the package (``backbone.weights: packaged``).

It is trained contrastively (the loss of NeMo, in episodes: one half of a batch recognises the other) on our own renders
of other categories: chairs, boats, random solids and so on, and no car. A network trained from nothing on 7 pictures
has no features to match in the first E-step; ImageNet weights cannot be shipped. Run from the repository's root; the
result is the same every time on one machine (about 550 s of one core, 240 of them for rendering):

    OMP_NUM_THREADS=1 python experiments/pretrain_small_backbone.py --out nvsm_lightning/features/small.pt
"""

import argparse
import time
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as nnf
from PIL import Image
from rich.progress import track
from torch import Tensor

from nvsm_lightning.data.augment import Augmentation, augment
from nvsm_lightning.features.backbone import STRIDE, Backbone, BackboneSpec
from nvsm_lightning.features.reading import read_vertices
from nvsm_lightning.geometry.cameras import Camera, project
from nvsm_lightning.geometry.meshes import cuboid
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.render.engines import rasterize
from nvsm_lightning.render.visibility import visible_vertices
from nvsm_lightning.toy.dataset import OtherSample, make_other
from nvsm_lightning.toy.objects import FAMILIES
from nvsm_lightning.training.contrast import (
    ContrastSettings,
    contrastive_loss,
    draw_background,
    near_vertices,
)

HEIGHT, WIDTH, PIXELS_PER_UNIT = 144, 192, 160.0  # most other objects are taller than cars; a box diagonal is 1 unit
MAP = (HEIGHT // STRIDE, WIDTH // STRIDE)
CHANGES = Augmentation(mirror=0.0)  # the other categories are not all symmetric


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
    height, width = sample.image.shape[:2]
    return image.contiguous(), Camera(
        distance=torch.tensor([distance]),
        focal=torch.tensor([distance * PIXELS_PER_UNIT]),
        principal=torch.tensor([[WIDTH / 2, HEIGHT / 2]]),
        box=torch.full((1, 4), torch.nan),
        frame=scale * torch.tensor([[-corner[0], -corner[1], width - corner[0], height - corner[1]]]),
    )


@dataclass(frozen=True)
class Picture:
    """A training picture at canonical scale; ``vertices`` are those of the cuboid of its own instance."""

    image: Tensor
    camera: Camera
    viewpoint: Tensor
    vertices: Tensor


class Family:
    """The pictures of one family and one grid of vertices, stretched to each instance: vertex k is the same place on
    all of them.
    """

    def __init__(self, samples: list[OtherSample], vertices: int) -> None:
        low = torch.tensor([s.low for s in samples]).mean(0)
        high = torch.tensor([s.high for s in samples]).mean(0)
        mesh = cuboid(tuple(low.tolist()), tuple(high.tolist()), vertices)
        unit = (mesh.vertices - low) / (high - low)
        self.faces, self.near = mesh.faces, near_vertices(mesh.vertices, ContrastSettings().near_distance)
        self.pictures = []
        for sample in samples:
            low, high = torch.tensor(sample.low), torch.tensor(sample.high)
            self.pictures.append(Picture(*crop(sample), sample.viewpoint, low + unit * (high - low)))

    def batch(self, chosen: Iterable[int], seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Changed pictures [B,3,H,W], vertices on the map [B,V,2], which are seen [B,V], the cells that the cuboid
        covers and those that show the picture (both [B,h,w]).
        """
        images, places, shown = [], [], []
        for index in chosen:
            picture, generator = self.pictures[index], torch.Generator().manual_seed(seed * 100_003 + index)
            image, camera, viewpoint = augment(
                picture.image, picture.camera, picture.viewpoint, CHANGES, generator, symmetric=False
            )
            camera = camera.scaled(1 / STRIDE)
            images.append(image)
            places.append(project(picture.vertices, rotation_from_viewpoint(viewpoint[None]), camera))
            shown.append(camera.shows(MAP))
        uvz = torch.cat(places)
        seen = visible_vertices(uvz, self.faces, MAP)
        covered = rasterize(uvz, self.faces, MAP) >= 0
        return torch.stack(images), uvz[..., :2], seen, covered, torch.cat(shown)


def episode_loss(backbone: Backbone, family: Family, chosen: list[int], seed: int) -> Tensor:
    """Each half of a batch of one family is recognised by the mean vertex features of the other half: the task of the
    first E-step, where 7 pictures have to explain all others. No bank: it would lag behind a network that learns from
    nothing.
    """
    settings = ContrastSettings()
    images, uv, seen, covered, shown = family.batch(chosen, seed)
    with torch.autocast("cpu", torch.bfloat16):
        raw = backbone.raw(images)
    # Centred, as the fit centres on its labelled pictures; from the nearly equal features of a new network it learns
    # much faster so.
    feature_map = nnf.normalize(raw - raw.permute(0, 2, 3, 1)[shown].mean(0)[:, None, None], dim=1)
    features = read_vertices(feature_map, uv)
    order = torch.rand(covered.shape, generator=torch.Generator().manual_seed(seed))
    noise = draw_background(feature_map, covered, shown, 4 * settings.noise_per_image, order)
    half, total = len(chosen) // 2, features.new_zeros(())
    for known, asked in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
        weight = seen[known].to(features)
        means = nnf.normalize((features[known] * weight[..., None]).sum(0), dim=-1)
        unseen = weight.sum(0) == 0  # no mean: neither asked for nor a negative
        total = total + contrastive_loss(
            features[asked],
            seen[asked] & ~unseen,
            features.new_ones(len(features[asked])),
            means,
            noise,
            family.near | unseen,
            settings,
        )
    return total / 2


def schedule_of(families: list[Family], batch_size: int, seed: int) -> list[tuple[int, list[int]]]:
    """The batches of an epoch, each of one family, in random order."""
    generator = torch.Generator().manual_seed(seed)
    batches = []
    for number, family in enumerate(families):
        order = torch.randperm(len(family.pictures), generator=generator)
        batches += [(number, part.tolist()) for part in order.split(batch_size) if len(part) == batch_size]
    return [batches[position] for position in torch.randperm(len(batches), generator=generator).tolist()]


def train(
    samples: list[OtherSample],
    epochs: int,
    batch_size: int,
    seed: int,
    dim: int,
    vertices: int,
    learning_rate: float = 1e-3,
) -> Backbone:
    """Train a small backbone on pictures of other categories."""
    torch.manual_seed(seed)
    names = sorted({sample.family for sample in samples})
    families = [Family([s for s in samples if s.family == name], vertices) for name in names]
    backbone = Backbone(BackboneSpec("small", "none", dim=dim, frozen=[], center=False)).train()
    backbone.to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(backbone.parameters(), learning_rate, weight_decay=1e-2)
    steps = epochs * len(schedule_of(families, batch_size, 0))
    rate = torch.optim.lr_scheduler.OneCycleLR(optimizer, learning_rate, total_steps=steps, pct_start=0.1)
    start, step = time.perf_counter(), 0
    for epoch in range(epochs):
        total = 0.0
        batches = schedule_of(families, batch_size, seed * 1000 + epoch)
        for number, chosen in batches:
            loss = episode_loss(backbone, families[number], chosen, seed * 1_000_000 + step)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            rate.step()
            total, step = total + loss.item(), step + 1
        seconds = time.perf_counter() - start
        print(f"epoch {epoch + 1} of {epochs}: loss {total / len(batches):.3f}, {seconds:.0f} s", flush=True)
    return backbone


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=2400, help=f"pictures, shared among {len(FAMILIES)} families")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch_size", type=int, default=24)
    parser.add_argument("--vertices", type=int, default=160, help="of each family's cuboid")
    parser.add_argument("--dim", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    settings = parser.parse_args()
    others = make_other(settings.count, seed=settings.seed)
    samples = list(track(others, "Rendering other categories", total=settings.count))
    backbone = train(samples, settings.epochs, settings.batch_size, settings.seed, settings.dim, settings.vertices)
    state = {
        key: value.half().contiguous()
        for key, value in backbone.state_dict().items()
        if key.startswith(("trunk.", "head."))
    }
    torch.save(state, settings.out)
    print(f"wrote {settings.out}: {settings.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
