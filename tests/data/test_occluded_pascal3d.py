import numpy as np
import pytest
from published_layouts import write_occluded, write_pascal3d

from nvsm_lightning.data import OccludedPascal3D, Pascal3D
from nvsm_lightning.data.occlude import read_masks
from nvsm_lightning.errors import ConfigError, DataError


@pytest.fixture
def roots(tmp_path):
    pascal = write_pascal3d(tmp_path / "pascal")
    return pascal, write_occluded(tmp_path / "occluded", pascal)


def test_labels_are_those_of_the_originals(roots):
    pascal, occluded = roots
    clean = Pascal3D(str(pascal)).read(pascal)
    data = OccludedPascal3D(str(pascal), str(occluded))
    with pytest.warns(UserWarning, match="1 not usable in the val list of PASCAL3D., the first: n02834778_9345"):
        records = data.read(pascal)
    assert [r for r in records if r.part != "test"] == [r for r in clean if r.part != "test"]
    hidden, whole = ([r for r in some if r.part == "test"] for some in (records, clean))
    assert [r.image.stem for r in hidden] == [r.image.stem for r in whole] and len(hidden) == 4
    for one, other in zip(hidden, whole, strict=True):
        assert one.key == f"images/carFGL1_BGL1/{other.image.name}" and one.occlusion == "FGL1_BGL1"
        assert (one.viewpoint, one.distance, one.principal) == (other.viewpoint, other.distance, other.principal)
    occluder, region = read_masks(hidden[0].image)
    assert occluder.shape == region.shape == (48, 64) and 0 < (occluder & region).sum() < region.sum() == 38 * 55
    assert {r.part for r in data.read(pascal, test_only=True)} == {"test"}
    data = OccludedPascal3D(str(pascal), str(occluded), label_seed=0, val_percent=0)
    data.setup("fit")
    assert (len(data.labelled), len(data.pool), len(data.test)) == (7, 2, 4)


def test_levels_and_absent_folders(roots):
    pascal, occluded = roots
    with pytest.raises(ConfigError, match="no occlusion level 'L4'"):
        OccludedPascal3D(str(pascal), str(occluded), "L4")
    with pytest.raises(DataError, match=r"lists/carFGL2_BGL3.txt does not exist; --data.occluded_root"):
        OccludedPascal3D(str(pascal), str(occluded), "FGL2_BGL3").read(pascal)
    with pytest.raises(DataError, match=r"give the data set's folder with --data.occluded_root"):
        OccludedPascal3D(str(pascal), str(occluded / "none")).read(pascal)
    next((occluded / "images/carFGL1_BGL1").iterdir()).unlink()
    with pytest.raises(DataError, match=r"JPEG does not exist, but .*carFGL1_BGL1.txt does"):
        OccludedPascal3D(str(pascal), str(occluded)).read(pascal)


def test_masks_are_verified(roots):
    pascal, occluded = roots
    data = OccludedPascal3D(str(pascal), str(occluded))
    first = next(r for r in data.read(pascal) if r.part == "test")
    data.verify(first)
    file = occluded / f"annotations/carFGL1_BGL1/{first.image.stem}.npz"
    np.savez(file, occluder_mask=np.zeros((10, 10), bool), mask=np.zeros((10, 10)))
    with pytest.raises(DataError, match=r"masks of \(10, 10\) for a picture of \(48, 64\)"):
        data.verify(first)
    np.savez(file, mask=np.zeros((48, 64)))
    with pytest.raises(DataError, match=r"npz cannot be read"):
        data.verify(first)
    file.unlink()
    with pytest.raises(DataError, match=r"npz does not exist"):
        data.verify(first)
