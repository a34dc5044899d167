"""``nvsm prepare mesh``: the mesh or meshes of a category, made from its CAD models."""

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import ArgumentParser

from nvsm_lightning.errors import ConfigError, DataError
from nvsm_lightning.geometry.cad import read_cad
from nvsm_lightning.geometry.meshes import Mesh, write_off
from nvsm_lightning.geometry.remesh import enclosing_cuboid
from nvsm_lightning.render.decimate import decimate, silhouette_iou

KINDS = ("single", "multi", "downsample")


def run(words: Sequence[str]) -> int:
    """``nvsm prepare mesh --kind single|multi|downsample --from CAD/car.mat --out DIR``."""
    parser = ArgumentParser(prog="nvsm prepare mesh", description="Make the meshes of a category from CAD models.")
    parser.add_argument("--kind", type=str, default="single", choices=KINDS, help="single: one cuboid for all models; "
                        "multi: one cuboid a model; downsample: every model with fewer vertices.")  # fmt: skip
    parser.add_argument("--from", dest="source", type=str, default="", help="CAD/<category>.mat of PASCAL3D+, an OFF "
                        "or OBJ file, or a folder of them.")  # fmt: skip
    parser.add_argument("--out", type=str, default="", help="Folder for 01.off, 02.off ...: one a subtype.")
    parser.add_argument("--vertices", type=int, default=1000, help="About how many vertices a mesh gets.")
    options = parser.parse_args(list(words))
    if not options.source or not options.out:
        raise DataError("nvsm prepare mesh needs --from and --out; `nvsm prepare mesh --help` explains them.")
    models = read_cad(Path(options.source))
    for line in save(Path(options.out).expanduser(), make(models, options.kind, options.vertices), models):
        print(line)
    return 0


def make(models: dict[int, Mesh], kind: str, vertices: int) -> dict[int, Mesh]:
    """The meshes by subtype; a single one is subtype 1.

    Args:
        models: CAD models by ``cad_index``.
        kind: ``single``, ``multi`` or ``downsample``.
        vertices: about how many vertices each gets.
    """
    if kind == "single":
        return {1: enclosing_cuboid(models.values(), vertices)}
    if kind == "multi":
        return {index: enclosing_cuboid([model], vertices) for index, model in models.items()}
    if kind == "downsample":
        return {index: decimate(model, vertices) for index, model in models.items()}
    raise ConfigError(f"There is no kind of mesh {kind!r}. Choose one of {', '.join(KINDS)}.")


def save(out: Path, meshes: dict[int, Mesh], models: dict[int, Mesh]) -> list[str]:
    """Write ``NN.off`` for every subtype; one line each on its size and on how well it covers its models.

    Raises:
        DataError: the folder holds meshes of other subtypes, which would be read with these.
    """
    names = {index: f"{index:02d}.off" for index in meshes}
    old = sorted(file.name for file in out.glob("*.off")) if out.is_dir() else []
    if set(old) - set(names.values()):
        raise DataError(f"{out} holds meshes of another set ({', '.join(old)}); give another --out, or remove them.")
    out.mkdir(parents=True, exist_ok=True)
    lines = []
    for index, mesh in meshes.items():
        write_off(mesh, out / names[index])
        x, y, z = (mesh.vertices.amax(0) - mesh.vertices.amin(0)).tolist()
        covered = [models[index]] if index in models and len(meshes) == len(models) else list(models.values())
        iou = sum(silhouette_iou(mesh, model) for model in covered) / len(covered)
        lines.append(
            f"{out / names[index]}: {len(mesh.vertices)} vertices, {len(mesh.faces)} faces, "
            f"{x:.3f} x {y:.3f} x {z:.3f}; silhouette IoU with the CAD {iou:.3f}"
        )
    return [*lines, f"use {'it' if len(meshes) == 1 else 'them'}: --model.mesh.file {out}"]
