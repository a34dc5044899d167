import math
from pathlib import Path

import numpy as np
import pytest
import torch
from layouts import truncate, write_picture
from PIL import Image

from nvsm_lightning.data.crops import FILL, CropSpec, _window, canonical_crop, colours, picture_size
from nvsm_lightning.data.record import Record
from nvsm_lightning.errors import ConfigError, DataError
from nvsm_lightning.features.backbone import IMAGENET_MEAN
from nvsm_lightning.geometry.cameras import Camera, project
from nvsm_lightning.geometry.viewpoints import rotation_from_viewpoint

VIEW = (math.radians(40), math.radians(12), math.radians(-7))
POINT = torch.tensor([[0.12, -0.3, 0.08]])


def dot(path: Path, size: tuple[int, int], u: float, v: float, sigma: float) -> Path:
    """A white Gaussian dot at (u, v), continuous coordinates, on black."""
    x, y = np.arange(size[0]) + 0.5, np.arange(size[1]) + 0.5
    value = 255 * np.exp(-((x[None] - u) ** 2 + (y[:, None] - v) ** 2) / (2 * sigma**2))
    Image.fromarray(value.round().astype(np.uint8)).convert("RGB").save(path, quality=98)
    return path


def centroid(crop: torch.Tensor) -> tuple[float, float]:
    """Centre of the dot in a crop whose outside is filled with grey."""
    value = crop.double().amax(0)
    inside = (crop[0] == crop[1]) & (crop[1] == crop[2])  # FILL is not grey
    value = torch.where(inside & (value > 20), value - 20, 0)
    height, width = value.shape
    u = (value.sum(0) * (torch.arange(width) + 0.5)).sum() / value.sum()
    v = (value.sum(1) * (torch.arange(height) + 0.5)).sum() / value.sum()
    return u.item(), v.item()


@pytest.mark.parametrize(
    ("size", "distance", "focal", "principal", "suffix"),
    [
        ((320, 200), 1.1, 400.0, (150.3, 90.8), ".png"),
        ((500, 375), 7.0, 3000.0, (251.0, 170.5), ".jpg"),
        ((90, 60), 2.0, 200.0, (44.4, 31.0), ".png"),  # upsampled three times
        ((1900, 1301), 1.2, 2400.0, (980.5, 640.25), ".jpg"),  # JPEG decoded at a reduced size
    ],
)
def test_a_known_point_lands_where_the_crops_camera_projects_it(
    tmp_path, size, distance, focal, principal, suffix
) -> None:
    rotation = rotation_from_viewpoint(torch.tensor([VIEW]))
    stored = Camera(
        torch.tensor([distance]), torch.tensor([focal]), torch.tensor([principal]), torch.full((1, 4), torch.nan)
    )
    u, v, _ = project(POINT, rotation, stored)[0, 0].tolist()
    spec = CropSpec(160, 384, 300.0)
    scale = 300 * distance / focal
    path = dot(tmp_path / f"dot{suffix}", size, u, v, sigma=3 / scale)
    record = Record(path, "dot", "car", "train", VIEW, distance, focal, principal)

    crop, camera = canonical_crop(path, record, spec)

    expected = project(POINT, rotation, camera)[0, 0, :2].tolist()
    assert crop.shape == (3, 160, 384) and crop.dtype == torch.uint8
    assert camera.focal.item() == pytest.approx(300 * distance) and not camera.box.isfinite().any()
    assert camera.principal[0].tolist() == [192, 80]
    assert centroid(crop) == pytest.approx(expected, abs=0.12)


def test_canonical_camera_of_nemo(tmp_path) -> None:
    path = write_picture(tmp_path / "a.png", (100, 80))
    record = Record(path, "a", "car", "train", VIEW, 7.0, 3000.0, (50.0, 40.0))
    crop, camera = canonical_crop(path, record, CropSpec(256, 672, 600.0, camera="canonical"))
    assert (camera.distance.item(), camera.focal.item(), camera.principal[0].tolist()) == (5.0, 3000.0, [336, 128])
    shown = (crop.permute(1, 2, 0) != torch.tensor(FILL)).any(-1)
    assert shown.any(0).sum() == pytest.approx(100 * 7 / 5, abs=2)  # NeMo: resize by distance / 5
    assert shown.any(1).sum() == pytest.approx(80 * 7 / 5, abs=2)


def test_box_only_scale_centre_and_box(tmp_path) -> None:
    image = np.zeros((120, 200, 3), np.uint8)
    image[30:80, 40:120] = 255  # the box: 80 wide, 50 high
    path = tmp_path / "box.png"
    Image.fromarray(image).save(path)
    record = Record(path, "box", "car", "train", VIEW, distance=1.5, box=(40.0, 30.0, 120.0, 80.0))
    crop, camera = canonical_crop(path, record, CropSpec(160, 384, 300.0, box_unit=0.33))
    scale = 300 * 0.33 / 50
    half = torch.tensor([80, 50]) * scale / 2
    torch.testing.assert_close(
        camera.box[0], torch.cat((torch.tensor([192.0, 80]) - half, torch.tensor([192.0, 80]) + half))
    )
    assert (camera.distance.item(), camera.focal.item()) == (1.5, 1.0)
    white = crop[0] > 127
    columns, rows = white.any(0).nonzero(), white.any(1).nonzero()
    edges = [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]
    assert edges == pytest.approx(camera.box[0].tolist(), abs=0.75)


def test_a_long_box_is_shrunk_until_it_fits() -> None:
    record = Record(Path("x"), "x", "car", "train", box=(0.0, 0.0, 300.0, 20.0))
    scale, centre, camera = _window((320, 60), record, CropSpec(160, 384, 300.0, box_unit=0.33))
    assert scale == pytest.approx(384 / 300) and centre == (150, 10)
    assert camera.box[0].tolist() == pytest.approx([0, 80 - 12.8, 384, 80 + 12.8], abs=1e-4)
    assert camera.distance.item() == pytest.approx(CropSpec().box_distance)


def test_a_tall_box_is_shrunk_until_it_fits() -> None:
    record = Record(Path("x"), "x", "car", "train", box=(10.0, 0.0, 30.0, 300.0))
    scale, centre, camera = _window((60, 320), record, CropSpec(160, 384, 300.0, box_unit=0.33))
    assert scale == pytest.approx(160 / 300) and centre == (20, 150)
    half = 20 / 2 * scale
    assert camera.box[0].tolist() == pytest.approx([192 - half, 0, 192 + half, 160], abs=1e-4)


@pytest.mark.parametrize(
    "known",
    [
        {"distance": 1.0, "focal_px": 240.0, "principal": (40.0, 50.0)},  # 1.25 crop pixels a pixel
        {"box": (10.0, 20.0, 60.0, 70.0)},  # 1.98
    ],
)
def test_a_crop_tells_where_the_fill_begins(tmp_path, known) -> None:
    Image.new("RGB", (90, 60), (255, 255, 255)).save(tmp_path / "a.png")
    record = Record(tmp_path / "a.png", "a", "car", "train", VIEW, **known)
    crop, camera = canonical_crop(record.image, record, CropSpec(200, 384, 300.0, box_unit=0.33))
    white = crop[0] == 255
    columns, rows = white.any(0).nonzero(), white.any(1).nonzero()
    edges = [columns.min().item(), rows.min().item(), columns.max().item() + 1, rows.max().item() + 1]
    assert edges == pytest.approx(camera.frame[0].tolist(), abs=1)


def test_the_fill_is_nothing_to_a_normalising_backbone() -> None:
    assert [value / 255 for value in FILL] == pytest.approx(IMAGENET_MEAN, abs=0.003)


def test_neither_camera_nor_box_takes_the_whole_picture(tmp_path) -> None:
    path = write_picture(tmp_path / "a.png", (100, 80))
    _, camera = canonical_crop(path, Record(path, "a", "car", "test"), CropSpec(160, 384, 300.0))
    width, height = camera.box[0, 2] - camera.box[0, 0], camera.box[0, 3] - camera.box[0, 1]
    assert (width / height).item() == pytest.approx(100 / 80)
    assert camera.principal[0].tolist() == [192, 80]


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1"])
def test_every_colour_mode_becomes_rgb(tmp_path, mode) -> None:
    path = tmp_path / ("a.jpg" if mode == "CMYK" else "a.png")
    Image.new("RGB", (60, 40), (255, 255, 255)).convert(mode).save(path)
    crop, _ = canonical_crop(path, Record(path, "a", "car", "test"), CropSpec(160, 384, 300.0))
    assert crop[:, 80, 192].tolist() == pytest.approx([255] * 3, abs=2)


def test_the_exif_turn_is_only_applied_where_asked(tmp_path) -> None:
    path = tmp_path / "phone.jpg"
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees
    Image.new("RGB", (60, 30), (200, 0, 0)).save(path, exif=exif)
    lying = canonical_crop(path, Record(path, "a", "car", "test"), CropSpec())[1].box[0]
    upright = canonical_crop(path, Record(path, "a", "car", "test", turned=True), CropSpec())[1].box[0]
    assert ((lying[2] - lying[0]) / (lying[3] - lying[1])).item() == pytest.approx(2)
    assert ((upright[2] - upright[0]) / (upright[3] - upright[1])).item() == pytest.approx(0.5)


def test_a_window_beside_the_picture_is_filled_and_damage_still_found(tmp_path) -> None:
    path = write_picture(tmp_path / "a.jpg", (400, 300))
    record = Record(path, "a", "car", "train", VIEW, 1.0, 300.0, (3000.0, 100.0))
    crop, _ = canonical_crop(path, record, CropSpec())
    assert (crop.permute(1, 2, 0) == torch.tensor(FILL)).all()
    truncate(path)
    with pytest.raises(DataError, match=r"a\.jpg"):
        canonical_crop(path, record, CropSpec())


def test_damaged_pictures_are_named(tmp_path) -> None:
    path = write_picture(tmp_path / "cut.jpg", (400, 300))
    truncate(path)
    record = Record(path, "cut", "car", "train")
    with pytest.raises(DataError, match=r"cut\.jpg cannot be decoded .*truncated"):
        canonical_crop(path, record, CropSpec())
    path.write_text("<html>not found</html>")
    with pytest.raises(DataError, match=r"cut\.jpg is not a picture"):
        canonical_crop(path, record, CropSpec())
    path.unlink()
    with pytest.raises(DataError, match=r"cut\.jpg does not exist"):
        picture_size(path)


def test_senseless_sizes_are_refused() -> None:
    with pytest.raises(ConfigError, match="positive"):
        CropSpec(height=0)


def test_sixteen_bits_of_grey_and_transparency(tmp_path) -> None:
    """Pillow makes white of the first, and of the second the colour that nobody sees."""
    grey = np.linspace(0, 65535, 40 * 60).reshape(40, 60).astype(np.uint16)
    Image.fromarray(grey).save(tmp_path / "deep.png")
    with Image.open(tmp_path / "deep.png") as picture:
        found = np.asarray(colours(picture))
    assert found.shape == (40, 60, 3) and np.abs(found[..., 0] - grey / 257).max() <= 1
    rgba = np.zeros((40, 60, 4), np.uint8)
    rgba[10:30, 10:50] = (200, 100, 50, 255)
    Image.fromarray(rgba).save(tmp_path / "cut.png")
    with Image.open(tmp_path / "cut.png") as picture:
        found = np.asarray(colours(picture))
    assert tuple(found[0, 0]) == FILL and tuple(found[20, 20]) == (200, 100, 50)
