import math

import pytest
import torch
from test_crops import POINT, VIEW, centroid, dot

from nvsm_lightning.data.augment import RGB_TO_YIQ, YIQ_TO_RGB, Augmentation, augment
from nvsm_lightning.data.crops import FILL, CropSpec, canonical_crop
from nvsm_lightning.data.record import Record
from nvsm_lightning.errors import ConfigError
from nvsm_lightning.geometry.cameras import Camera, canonical_camera, project
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint, wrap_angle

NOTHING = Augmentation(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0)
GEOMETRY = Augmentation(0.5, 0.0, 0.0, 0.0, 0.0, 0.0, 0.15, 8.0, 0.0)
POINTS = torch.tensor([[0.12, -0.3, 0.08], [-0.2, 0.1, 0.12], [0.05, 0.35, -0.1]])


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


def settings(mirrored: bool, **changes) -> Augmentation:
    """Scale and shift, and always or never a mirror."""
    return Augmentation(**{**vars(GEOMETRY), "mirror": float(mirrored), **changes})


def seen(points: torch.Tensor, view: torch.Tensor, camera: Camera) -> torch.Tensor:
    """Pixels (u, v) of points of the object."""
    return project(points, rotation_from_viewpoint(view[None]), camera)[0, :, :2]


def draw_dot(plane: torch.Tensor, uv: torch.Tensor) -> torch.Tensor:
    """A white dot added to one colour of a crop."""
    u, v = uv.tolist()
    rows, columns = (torch.arange(count) + 0.5 for count in plane.shape)
    value = 255 * torch.exp(-((columns - u) ** 2 + (rows[:, None] - v) ** 2) / 12.5)
    return torch.maximum(plane, value.round().to(torch.uint8))


def dot_near(plane: torch.Tensor, uv: torch.Tensor, reach: int = 14) -> list[float]:
    """Middle (u, v) of what is bright around ``uv``, which may itself be wrong by a few pixels."""
    left, top = (max(0, int(edge) - reach) for edge in uv.tolist())
    part = plane[top : top + 2 * reach, left : left + 2 * reach]
    rows, columns = (torch.arange(count) + 0.5 for count in part.shape)
    return [left + ((part * columns).sum() / part.sum()).item(), top + ((part.T * rows).sum() / part.sum()).item()]


@pytest.mark.parametrize("mirrored", [False, True])
@pytest.mark.parametrize("boxed", [False, True])
def test_points_of_the_object_stay_where_pose_and_camera_say(boxed, mirrored) -> None:
    """A dot of another colour for each of three points; the principal point is not the middle of the crop."""
    view, middle = torch.tensor(VIEW), torch.tensor([[176.0, 88.0]])
    plain = canonical_camera(160, 384, 250.0, 1.7)
    camera = Camera(plain.distance, plain.focal, middle, plain.box)
    uv = seen(POINTS, view, camera)
    if boxed:
        camera = Camera(plain.distance, torch.ones(1), middle, torch.cat((uv.amin(0), uv.amax(0)))[None])
    black = torch.zeros(160, 384, dtype=torch.uint8)
    crop = torch.stack([draw_dot(black, each) for each in uv])
    shown = POINTS * torch.tensor([-1.0 if mirrored else 1.0, 1.0, 1.0])  # the mirror image shows mirrored points
    for seed in range(5):
        picture, moved, now = augment(crop, camera, view, settings(mirrored), generator(seed), symmetric=True)
        assert now.equal(view) != mirrored and moved.distance.equal(camera.distance)
        for plane, expected in zip(picture, seen(shown, now, moved), strict=True):
            assert dot_near(plane, expected) == pytest.approx(expected.tolist(), abs=0.1)


@pytest.mark.parametrize("mirrored", [False, True])
def test_the_fill_begins_where_the_camera_says(mirrored) -> None:
    """The stored picture is white and fills a part of the crop."""
    crop = torch.tensor(FILL, dtype=torch.uint8)[:, None, None].repeat(1, 160, 384)
    crop[:, 30:120, 70:250] = 255
    plain = canonical_camera(160, 384, 300.0)
    frame = torch.tensor([[70.0, 30, 250, 120]])
    for seed in range(5):
        change = settings(mirrored), generator(seed), True
        camera = Camera(plain.distance, plain.focal, plain.principal, plain.box, frame)
        picture, moved, _ = augment(crop, camera, torch.tensor(VIEW), *change)
        white = picture[0] > 0.75
        columns, rows = white.any(0).nonzero(), white.any(1).nonzero()
        edges = [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]
        assert edges == pytest.approx(moved.frame[0].tolist(), abs=0.8)
        endless = augment(crop, plain, torch.tensor(VIEW), *change)[1].frame
        assert endless.tolist() == [[-math.inf, -math.inf, math.inf, math.inf]]


@pytest.mark.parametrize("mirrored", [False, True])
def test_what_is_pasted_on_the_object_stays_on_it(mirrored) -> None:
    """The occluder is told of the picture that it is given: here it marks a point of the object."""
    camera, view, given = canonical_camera(160, 384, 250.0, 1.7), torch.tensor(VIEW), []

    def mark(crop, camera, viewpoint, generator):
        given.append(crop)
        return draw_dot(crop[0], seen(POINTS, viewpoint, camera)[0]).expand(3, -1, -1)

    black = torch.zeros(3, 160, 384, dtype=torch.uint8)
    black[:, :5, :5] = 20
    for seed in range(5):
        picture, moved, now = augment(
            black, camera, view, settings(mirrored, paste=1.0), generator(seed), True, occluder=mark
        )
        expected = seen(POINTS, now, moved)[0]
        assert dot_near(picture[0], expected) == pytest.approx(expected.tolist(), abs=0.1)
        assert given[-1].equal(black.flip(-1) if mirrored else black)


def test_scale_and_both_shifts_are_drawn_apart() -> None:
    crop, camera = torch.zeros(3, 4, 6, dtype=torch.uint8), canonical_camera(4, 6, 10.0)
    moved = [augment(crop, camera, torch.tensor(VIEW), GEOMETRY, generator(seed), False)[1] for seed in range(100)]
    shift = torch.cat([each.principal - camera.principal for each in moved])
    factor = torch.cat([each.focal / camera.focal for each in moved])
    together = torch.corrcoef(torch.cat((factor[None], shift.T))) - torch.eye(3)
    assert together.abs().max() < 0.35


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


def test_erased_rectangles_have_every_size_shape_and_place() -> None:
    height, width, draws = 100, 150, []
    black, camera = torch.zeros(3, height, width, dtype=torch.uint8), canonical_camera(100, 150, 10.0)
    for seed in range(100):
        erase = Augmentation(**{**vars(NOTHING), "erase": 1.0})
        picture = augment(black, camera, torch.tensor(VIEW), erase, generator(seed), False)[0]
        rows, columns = ((picture > 0).any(0).any(axis).nonzero().ravel() for axis in (1, 0))
        h, w, top, left = len(rows), len(columns), rows[0].item(), columns[0].item()
        noise = picture[:, top : top + h, left : left + w]
        assert (noise > 0).all() and noise.std() == pytest.approx(1 / math.sqrt(12), abs=0.03)
        area, aspect = h * w / (height * width), math.log(h / w, 3)
        draws.append([(area - 0.02) / 0.13, (aspect + 1) / 2, top / (height - h), left / (width - w)])
    drawn = torch.tensor(draws)  # each evenly from 0 to 1 but for rounding to pixels, and none by another
    assert -0.05 < drawn.min() and drawn.max() < 1.05
    assert (drawn.amin(0) < 0.1).all() and (drawn.amax(0) > 0.9).all()
    assert (torch.corrcoef(drawn.T) - torch.eye(4)).abs().max() < 0.35


@pytest.mark.parametrize(
    "bad", [{"mirror": 1.5}, {"paste": -0.1}, {"scale": 1.0}, {"shift": -1.0}, {"brightness": math.inf}]
)
def test_senseless_strengths_are_refused(bad) -> None:
    with pytest.raises(ConfigError, match="augment"):
        Augmentation(**bad)
