import math

import pytest
import torch

from nvsm_lightning.data.augment import Augmentation
from nvsm_lightning.data.datasets import Crops, PoseDataset
from nvsm_lightning.data.paste import paste
from nvsm_lightning.geometry.cameras import Camera, canonical_camera, project
from nvsm_lightning.geometry.meshes import CATEGORY_EXTENT, category_cuboid
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint
from nvsm_lightning.render.renderer import FeatureRenderer

CAR = CATEGORY_EXTENT["car"]
SIZE, UNIT = (160, 384), 300.0
NOTHING = Augmentation(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def flat(value: int) -> torch.Tensor:
    return torch.full((3, *SIZE), value, dtype=torch.uint8)


def camera(frame: tuple[float, float, float, float] = (-math.inf, -math.inf, math.inf, math.inf)) -> Camera:
    made = canonical_camera(*SIZE, UNIT)
    return Camera(made.distance, made.focal, made.principal, made.box, torch.tensor([frame]))


def viewpoint(azimuth_deg: float) -> torch.Tensor:
    return torch.tensor([math.radians(azimuth_deg), math.radians(8), 0.05])


def silhouette(view: torch.Tensor) -> torch.Tensor:
    """Pixels of the category's cuboid, by the renderer."""
    mesh = category_cuboid("car", 200)
    uvz = project(mesh.vertices, rotation_from_viewpoint(view[None]), camera())
    return FeatureRenderer(mesh, SIZE, "torch").render(torch.ones(len(mesh.vertices), 1), uvz)[1][0]


@pytest.mark.parametrize("azimuth_deg", [0, 40, 90, 200])
def test_a_piece_covers_5_to_35_percent_of_the_objects_area_and_lies_on_the_object(azimuth_deg) -> None:
    view = viewpoint(azimuth_deg)
    car, shares = silhouette(view), []
    for seed in range(30):
        covered = paste(flat(0), camera(), view, flat(255), camera(), CAR, generator(seed))[0].float() / 255
        shares.append((covered.sum() / car.sum()).item())
        assert (covered * car).sum() > 0.2 * covered.sum()
        assert 0 < ((covered > 0) & (covered < 1)).sum() < 0.5 * covered.sum()  # a soft rim, and opaque inside
    assert min(shares) > 0.04 and max(shares) < 0.36
    assert max(shares) - min(shares) > 0.15


def test_what_is_pasted_is_the_donors_picture_and_no_fill() -> None:
    donor = flat(0)
    donor[:, 40:120, 100:300] = torch.arange(1, 201).to(torch.uint8)  # 0: the fill; columns can be told apart
    for seed in range(20):
        result = paste(
            flat(255), camera(), viewpoint(40), donor, camera((100.0, 40.0, 300.0, 120.0)), CAR, generator(seed)
        )
        inside = result[0][(result[0] <= 200) & (result[0] > 0)]
        assert len(inside) and not (result == 0).any()
        changed = (result[0] != 255).any(0).nonzero()[:, 0]
        middle = result[0][:, changed[len(changed) // 3 : -len(changed) // 3]].amin(0).int().diff()
        assert middle.abs().median() == 1  # neighbours of the donor are neighbours, mirrored or not


def test_the_fill_around_the_picture_stays() -> None:
    frame, pasted = (170.0, 70.0, 230.0, 100.0), 0
    for seed in range(20):
        changed = paste(flat(0), camera(frame), viewpoint(90), flat(255), camera(), CAR, generator(seed))[0] > 0
        pasted += bool(changed.any())
        rows, columns = changed.any(1).nonzero(), changed.any(0).nonzero()
        if changed.any():
            assert 70 <= rows.min() and rows.max() < 100 and 170 <= columns.min() and columns.max() < 230
    assert pasted >= 5


def test_the_generator_alone_decides_and_nothing_given_is_written_to() -> None:
    crop, donor = flat(0), flat(255)
    first = paste(crop, camera(), viewpoint(30), donor, camera(), CAR, generator(3))
    torch.manual_seed(9)
    assert first.equal(paste(crop, camera(), viewpoint(30), donor, camera(), CAR, generator(3)))
    assert not first.equal(paste(crop, camera(), viewpoint(30), donor, camera(), CAR, generator(4)))
    assert crop.equal(flat(0)) and donor.equal(flat(255))


def dataset(settings: Augmentation, values: list[int]) -> PoseDataset:
    """Flat pictures of one value each, already decoded."""
    crops = Crops([], None)  # type: ignore[arg-type]
    crops._kept = {index: (flat(value), camera()) for index, value in enumerate(values)}
    views = torch.stack([viewpoint(70.0 * index) for index in range(len(values))])
    return PoseDataset(crops, torch.arange(len(values)), views, augmentation=settings, extent=CAR)


def test_the_draw_alone_decides_which_picture_gives_a_piece_and_it_is_another_one() -> None:
    settings = Augmentation(**{**vars(NOTHING), "paste": 0.5})
    values, seen, pasted = [10, 90, 170, 250], set(), 0
    for seed in range(40):
        shown, again = (dataset(settings, values)[1, seed] for _ in range(2))
        assert shown["image"].equal(again["image"]) and shown["viewpoint"].equal(viewpoint(70.0))
        pieces = {value for value in values if (shown["image"] * 255 - value).abs().lt(0.5).sum() > 500} - {90}
        assert len(pieces) <= 1
        pasted += len(pieces)
        seen |= pieces
    assert seen == {10, 170, 250} and 10 < pasted < 30


def test_without_it_pictures_are_what_they_were_and_a_single_one_may_cover_itself() -> None:
    off, on = (dataset(Augmentation(**{**vars(NOTHING), "paste": chance}), [90]) for chance in (0.0, 1.0))
    assert off[0, 5]["image"].equal(dataset(NOTHING, [90])[0, 5]["image"])
    assert (off[0, 5]["image"] * 255).round().eq(90).all()
    assert (on[0, 5]["image"] * 255).round().eq(90).all()
