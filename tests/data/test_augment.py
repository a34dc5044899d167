import math

import pytest
import torch
from test_crops import POINT, VIEW, centroid, dot

from nvsm_lightning.data.augment import RGB_TO_YIQ, YIQ_TO_RGB, Augmentation, augment
from nvsm_lightning.data.crops import CropSpec, canonical_crop
from nvsm_lightning.data.record import Record
from nvsm_lightning.errors import ConfigError
from nvsm_lightning.geometry.cameras import Camera, project
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint, wrap_angle

NOTHING = Augmentation(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
GEOMETRY = Augmentation(0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.15, 8.0, 0.0)


def generator(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def crop_of_dot(tmp_path):
    """A crop with a dot at the projection of POINT."""
    stored = Camera(
        torch.tensor([1.1]), torch.tensor([400.0]), torch.tensor([[150.3, 90.8]]), torch.full((1, 4), torch.nan)
    )
    u, v, _ = project(POINT, rotation_from_viewpoint(torch.tensor([VIEW])), stored)[0, 0].tolist()
    path = dot(tmp_path / "dot.png", (320, 200), u, v, 3)
    return canonical_crop(path, Record(path, "dot", "car", "train", VIEW, 1.1, 400.0, (150.3, 90.8)), CropSpec())


def test_picture_and_camera_move_together(crop_of_dot) -> None:
    crop, camera = crop_of_dot
    mirrored = 0
    for seed in range(12):
        picture, moved, view = augment(crop, camera, torch.tensor(VIEW), GEOMETRY, generator(seed), symmetric=True)
        point = POINT.clone()
        if not torch.allclose(view, torch.tensor(VIEW)):
            mirrored += 1
            point[:, 0] *= -1  # the mirror image shows the mirrored point
        expected = project(point, rotation_from_viewpoint(view[None]), moved)[0, 0, :2].tolist()
        assert centroid((picture * 255).round()) == pytest.approx(expected, abs=0.15)
    assert 0 < mirrored < 12


def test_pictures_are_scaled_and_shifted_by_as_much_as_asked(crop_of_dot) -> None:
    crop, camera = crop_of_dot
    moved = [augment(crop, camera, torch.tensor(VIEW), GEOMETRY, generator(seed), False)[1] for seed in range(60)]
    factor = torch.cat([each.focal / camera.focal for each in moved])
    shift = torch.cat([each.principal - camera.principal for each in moved])
    assert 0.85 <= factor.min() < 0.9 and 1.1 < factor.max() <= 1.15
    assert -8 <= shift.min() < -6 and 6 < shift.max() <= 8


def test_a_box_moves_with_the_picture() -> None:
    crop = torch.zeros(3, 160, 384, dtype=torch.uint8)
    crop[:, 50:110, 120:260] = 255
    box = torch.tensor([[120.0, 50, 260, 110]])
    camera = Camera(torch.tensor([1.7]), torch.ones(1), torch.tensor([[192.0, 80.0]]), box)
    for seed in range(6):
        picture, moved, _ = augment(crop, camera, torch.tensor(VIEW), GEOMETRY, generator(seed), symmetric=True)
        white = picture[0] > 0.75
        columns, rows = white.any(0).nonzero(), white.any(1).nonzero()
        edges = [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]
        assert edges == pytest.approx(moved.box[0].tolist(), abs=0.8)


def test_nothing_asked_nothing_changed(crop_of_dot) -> None:
    crop, camera = crop_of_dot
    picture, same, view = augment(crop, camera, torch.tensor(VIEW), NOTHING, generator(0), symmetric=False)
    torch.testing.assert_close(picture, crop.float() / 255, atol=1e-5, rtol=0)
    assert view.equal(torch.tensor(VIEW)) and same.principal.equal(camera.principal) and same.focal.equal(camera.focal)


def test_the_generator_alone_decides(crop_of_dot) -> None:
    crop, camera = crop_of_dot
    results = []
    for noise in (1, 2):
        torch.manual_seed(noise)
        results.append(augment(crop, camera, torch.tensor(VIEW), Augmentation(), generator(7), True)[0])
    assert results[0].equal(results[1])
    assert not results[0].equal(augment(crop, camera, torch.tensor(VIEW), Augmentation(), generator(8), True)[0])


def test_an_asymmetric_category_is_never_mirrored(crop_of_dot) -> None:
    crop, camera = crop_of_dot
    always = Augmentation(mirror=1.0)
    for seed in range(5):
        assert augment(crop, camera, torch.tensor(VIEW), always, generator(seed), False)[2].equal(torch.tensor(VIEW))


def test_colours() -> None:
    noise = torch.randint(60, 200, (3, 40, 60), generator=generator(0)).to(torch.uint8)
    camera = Camera(torch.ones(1), torch.ones(1), torch.tensor([[30.0, 20.0]]), torch.full((1, 4), torch.nan))
    view = torch.tensor(VIEW)

    def changed(**settings) -> torch.Tensor:
        return augment(noise, camera, view, Augmentation(**{**vars(NOTHING), **settings}), generator(1), False)[0]

    original = noise.float() / 255
    grey = changed(grayscale=1.0)
    torch.testing.assert_close(
        grey, (RGB_TO_YIQ[0] @ original.flatten(1)).view(1, 40, 60).expand(3, -1, -1), atol=2e-3, rtol=0
    )
    ratio = (changed(brightness=0.2) / original).flatten()
    assert ratio.std() < 1e-4 and 1e-3 < abs(ratio.mean() - 1) <= 0.201
    contrast = changed(contrast=0.4)
    assert contrast.mean() == pytest.approx(original.mean().item(), abs=0.02)
    assert contrast.std() != pytest.approx(original.std().item(), abs=1e-3)
    hue = changed(hue_deg=30.0)  # luma stays, colours turn
    torch.testing.assert_close(RGB_TO_YIQ[0] @ hue.flatten(1), RGB_TO_YIQ[0] @ original.flatten(1), atol=2e-2, rtol=0)
    before, turned = ((RGB_TO_YIQ @ each.flatten(1))[1:] for each in (original, hue))  # chroma
    far = before.norm(dim=0) > 0.1
    angles = [torch.atan2(chroma[1], chroma[0])[far] for chroma in (before, turned)]
    assert 1 < torch.rad2deg(wrap_angle(angles[1] - angles[0])).median().abs() <= 31
    pale = (RGB_TO_YIQ @ changed(saturation=0.4).flatten(1))[1:]
    factor = (pale.norm(dim=0) / before.norm(dim=0))[far].median()
    assert 0.6 <= factor <= 1.4 and factor != pytest.approx(1, abs=1e-3)
    torch.testing.assert_close(RGB_TO_YIQ @ YIQ_TO_RGB, torch.eye(3), atol=1e-5, rtol=0)


def test_erasing_covers_part_of_the_picture() -> None:
    black = torch.zeros(3, 160, 384, dtype=torch.uint8)
    camera = Camera(torch.ones(1), torch.ones(1), torch.tensor([[192.0, 80.0]]), torch.full((1, 4), torch.nan))
    settings = Augmentation(**{**vars(NOTHING), "erase": 1.0})
    for seed in range(8):
        covered = (augment(black, camera, torch.tensor(VIEW), settings, generator(seed), False)[0] > 0).any(0)
        assert 0.015 < covered.float().mean() < 0.16


@pytest.mark.parametrize(
    "bad", [{"mirror": 1.5}, {"paste": -0.1}, {"scale": 1.0}, {"shift": -1.0}, {"brightness": math.inf}]
)
def test_senseless_strengths_are_refused(bad) -> None:
    with pytest.raises(ConfigError, match="augment"):
        Augmentation(**bad)
