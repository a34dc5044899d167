"""``RunReport``: fills the run folder at the end of a test or a prediction, and prints the table."""

import csv
import io
import math
import os
import re
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from jaxtyping import Float
from lightning.pytorch import Callback, LightningDataModule, LightningModule, Trainer
from PIL import Image
from rich.console import Console
from torch import Tensor
from torch.utils.data import Dataset, Subset

from nvsm_lightning.geometry.meshes import Mesh
from nvsm_lightning.geometry.viewpoints import only_azimuths
from nvsm_lightning.metrics.pose import azimuth_metrics, legacy_sqrt2_metrics, pose_error, pose_metrics
from nvsm_lightning.report.gallery import contact_sheet, worst_median_best
from nvsm_lightning.report.overlays import PREDICTED, TRUTH, captioned, overlay
from nvsm_lightning.report.posterior import posterior_columns, posterior_section, posterior_table, with_rose
from nvsm_lightning.report.results import git_commit, measure, measure_guesses, write_json, write_text
from nvsm_lightning.report.rows import PictureRows, Rows
from nvsm_lightning.report.tables import Row, csv_table, markdown_table, rich_table

PLACED = ("log_distance_factor", "shift_u_px", "shift_v_px")  # of Camera.placed, in pixels of the crop
CONVENTION = (
    "PASCAL3D+: azimuth 0 shows the front and grows as the camera moves to the object's own left; elevation is "
    "positive above the object; theta turns the picture counter-clockwise"
)


class RunReport(Callback):
    """Writes results.json, tables/ and media/ of a test, and predictions.json and media/ of a prediction.

    Args:
        overlays: pictures on each contact sheet (worst, median, best); 0 draws none.
        width: of an overlay, pixels.
    """

    def __init__(self, overlays: int = 12, width: int = 384) -> None:
        self.overlays, self.width = overlays, width
        self.rows = PictureRows()
        self.results: dict[str, Any] = {}
        self.message: list[Any] = []

    # ------------------------------------------------------------------ fit

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write down which pictures are labelled."""
        data = data_of(trainer)
        if trainer.is_global_zero and hasattr(data, "write_label_list"):
            data.write_label_list(folder_of(trainer) / "tables" / "labels.txt")

    # ------------------------------------------------------------------ test

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with no picture."""
        self.rows = PictureRows()

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Keep the poses of a batch."""
        self.rows.add(outputs)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write results, tables and pictures of the test."""
        rows = self.rows.gathered()
        if not trainer.is_global_zero:
            return
        data, folder = data_of(trainer), folder_of(trainer)
        truth = compared(rows.truth, data)
        error = pose_error(rows.viewpoint, truth)
        self.results = self._results(trainer, pl_module, rows, truth, error)
        self._write_tables(folder, data, rows, truth, error)
        write_json(folder / "results.json", self.results)  # last: it says that the others are there
        if self.overlays:
            self._write_sheets(trainer, pl_module, rows, error)
        numbers = {f"test/{key}": value for key, value in self.results.items() if key in pose_metrics(error)}
        for logger in trainer.loggers:
            logger.log_metrics(numbers, step=trainer.global_step)

    def _results(
        self, trainer: Trainer, pl_module: LightningModule, rows: Rows, truth: Tensor, error: Tensor
    ) -> dict[str, Any]:
        data = data_of(trainer)
        # of test data alone; a model of another set may have been trained with poses that are not known here
        labelled = getattr(data, "label_viewpoints", torch.empty(0, 3)).double().cpu()
        known = labelled[labelled.isfinite().all(1)]
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0))
        skipped = getattr(data, "skipped", [])
        return {
            "method": getattr(pl_module, "name", type(pl_module).__name__.lower()),
            "dataset": getattr(data, "name", snake_case(type(data).__name__)),
            "synthetic": bool(getattr(data, "synthetic", False)),
            "azimuth_only": bool(getattr(data, "azimuth_only", False)),
            "category": getattr(data, "category", None),
            "part": getattr(data, "test_on", "test"),
            "n_labels": len(labelled),
            "seed": seed,
            **measure(error, seed),
            **legacy_sqrt2_metrics(error),
            **azimuth_metrics(rows.viewpoint[:, 0], rows.truth[:, 0]),
            "seconds_per_image": rows.seconds_per_image,
            "groups": group_metrics(getattr(data, "test", []), rows, error),
            "baselines": measure_guesses(known, truth, seed),
            **posterior_results(pl_module, rows, error, known),
            "n_pool": len(getattr(data, "pool", [])),
            "n_skipped": len(skipped),
            "em_rounds": getattr(getattr(trainer, "em", None), "rounds", 0),
            "git_commit": git_commit(),
        }

    def _write_tables(self, folder: Path, data: LightningDataModule, rows: Rows, truth: Tensor, error: Tensor) -> None:
        results, labels = self.results, self.results["n_labels"]
        table = [Row(results["method"], labels, results["seed"], results)]
        names = {"prior_only": "prior only", "random": "random"}
        table += [Row(names[name], labels, None, metrics) for name, metrics in results["baselines"].items()]
        tables = folder / "tables"
        write_text(tables / "results.csv", csv_table(table))
        write_text(tables / "results.md", markdown_table(table))
        write_text(tables / "predictions.csv", prediction_table(*named(data, rows), rows, truth, error))
        skipped = getattr(data, "skipped", [])
        if skipped:
            write_text(tables / "skipped.csv", csv_text([("key", "reason"), *skipped]))
        kind = (
            "rendered pictures, not comparable with results on photographs" if results["synthetic"] else "photographs"
        )
        caption = "[..] = 95 % bootstrap interval over the pictures, which all weigh the same. "
        caption += "Only azimuths are compared. " if results["azimuth_only"] else ""
        caption += groups_caption(results["groups"])
        part = "validation" if results["part"] == "val" else "test"
        title = f"{results['dataset']}: {results['n_images']} {part} pictures ({kind})"
        last = f"{results['seconds_per_image']:.3f} s a picture; written to {folder}"
        more = [posterior_table(results["posterior"])] if "posterior" in results else []
        self.message = [rich_table(table, title, caption), *more, last]

    def _write_sheets(self, trainer: Trainer, pl_module: LightningModule, rows: Rows, error: Tensor) -> None:
        dataset, mesh = dataset_of(trainer.test_dataloaders), mesh_of(pl_module)
        keys = keys_of(data_of(trainer), "test", rows)
        for name, chosen in worst_median_best(error, self.overlays).items():
            pictures = []
            for position in chosen.tolist():
                item = item_of(dataset, int(rows.index[position]))
                found = torch.cat((rows.viewpoint[position], rows.placement[position]))
                poses = [(rows.truth[position], TRUTH), (found, PREDICTED)]
                picture = overlay(item["image"], item["camera"], mesh, poses, self.width)
                azimuths = [f"{degrees(viewpoint[position, 0]):.0f}" for viewpoint in (rows.viewpoint, rows.truth)]
                if rows.posterior:
                    both = [float(viewpoint[position, 0]) for viewpoint in (rows.viewpoint, rows.truth)]
                    picture = with_rose(picture, rows.posterior, position, both)
                caption = f"error {degrees(error[position]):.1f} deg   azimuth {azimuths[0]} (true {azimuths[1]})"
                pictures.append(captioned(picture, [caption, keys[position]]))
            if not pictures:
                continue
            part = "validation" if self.results["part"] == "val" else "test"
            title = f"{name} of {len(error)} {part} pictures: predicted orange, true blue; the tinted side is the front"
            save_picture(trainer, contact_sheet(pictures, title), name, f"test/{name}")

    # ------------------------------------------------------------------ predict

    on_predict_start = on_test_start

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Keep the poses of a batch and draw them."""
        self.rows.add(outputs)
        if not self.overlays:
            return
        keys, mesh = keys_of(data_of(trainer), "predicted", None), mesh_of(pl_module)
        for row, index in enumerate(batch["index"].tolist()):
            parts = [outputs[name][row] for name in ("viewpoint", "placement") if name in outputs]
            poses = [(torch.cat(parts), PREDICTED)]
            picture = overlay(batch["image"][row], batch["camera"][row : row + 1], mesh, poses, self.width)
            if posterior := outputs.get("posterior"):
                picture = with_rose(picture, posterior, row, [float(outputs["viewpoint"][row, 0])])
            name = re.sub(r"[^\w./-]+", "_", keys[index] if index < len(keys) else str(index))
            place = [part for part in PurePosixPath(name).parts if part not in ("/", "..")]
            path = folder_of(trainer).joinpath("media", *place[:-1], f"{place[-1]}.png")  # sub-folders as the pictures'
            make_folder(path.parent)
            # One picture for each predicted: the fastest compression, for files a twelfth larger.
            picture.save(path, compress_level=1)

    def on_predict_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the poses of all pictures."""
        rows = self.rows.gathered()
        if not trainer.is_global_zero:
            return
        data = data_of(trainer)
        keys = keys_of(data, "predicted", rows)
        poses = rows.viewpoint_deg.tolist()
        angles = [[round(angle, 3) if math.isfinite(angle) else None for angle in pose] for pose in poses]
        predictions = [
            {
                "file": key,
                "azimuth_deg": azimuth,
                "elevation_deg": elevation,
                "theta_deg": theta,
                "loss": round(float(loss), 6),
            }
            for key, (azimuth, elevation, theta), loss in zip(
                keys, angles, rows.loss.nan_to_num().tolist(), strict=True
            )
        ]
        names, numbers = posterior_columns(rows.posterior)
        for prediction, line in zip(predictions, numbers, strict=False):
            pairs = zip(names, line, strict=True)
            prediction |= {name: None if math.isnan(value) else round(value, 4) for name, value in pairs}
        skipped = [{"file": key, "reason": reason} for key, reason in getattr(data, "skipped", [])]
        content = {
            "category": getattr(data, "category", None),
            "method": getattr(pl_module, "name", type(pl_module).__name__.lower()),
            "convention": CONVENTION,
            "seconds_per_image": rows.seconds_per_image,
            "predictions": predictions,
            "skipped": skipped,
        }
        if numbers:
            content["posterior"] = pl_module.posterior_info()  # type: ignore[operator]
        path = folder_of(trainer) / "predictions.json"
        write_json(path, content)
        head = list(predictions[0]) if predictions else []
        lines = [tuple("" if value is None else value for value in row.values()) for row in predictions]
        write_text(path.with_suffix(".csv"), csv_text([tuple(head), *lines]))
        pictures = f", overlay pictures in {path.parent / 'media'}" if self.overlays else ""
        self.message = [f"{len(predictions)} poses in {path}{pictures}; {len(skipped)} pictures skipped"]

    # ------------------------------------------------------------------ last words

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Print what was prepared, after the progress bars are gone."""
        console = Console(width=max(Console().width, 120))
        while self.message:
            console.print(self.message.pop(0), highlight=False, soft_wrap=True)


# ---------------------------------------------------------------------- parts


def folder_of(trainer: Trainer) -> Path:
    """The run folder."""
    return Path(trainer.default_root_dir)


def data_of(trainer: Trainer) -> LightningDataModule:
    """The data of the run (Lightning sets this attribute without declaring it)."""
    return trainer.datamodule  # type: ignore[attr-defined]


def mesh_of(module: LightningModule) -> Mesh:
    """The mesh whose cuboid is drawn."""
    return module.mesh  # type: ignore[return-value]


def make_folder(folder: Path) -> Path:
    """The folder, made if it is not there."""
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def compared(truth: Float[Tensor, "picture 3"], data: LightningDataModule) -> Float[Tensor, "picture 3"]:
    """What of true viewpoints is measured and not assumed: of an ``azimuth_only`` data set NaN for the rest."""
    return only_azimuths(truth) if getattr(data, "azimuth_only", False) else truth


def save_picture(trainer: Trainer, picture: Image.Image, name: str, key: str) -> None:
    """Save as media/<name>.png and hand the picture to every logger that takes pictures, under ``key``."""
    path = make_folder(folder_of(trainer) / "media") / f"{name}.png"
    picture.save(path)
    for logger in trainer.loggers:
        if hasattr(logger, "log_image"):
            logger.log_image(key, [str(path)], step=trainer.global_step)


def degrees(angle: Tensor | float) -> float:
    """Radians as a float of degrees."""
    return float(torch.rad2deg(torch.as_tensor(angle)))


def snake_case(name: str) -> str:
    """``EPFLCars`` -> ``epfl_cars``."""
    return re.sub(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])", "_", name).lower()


def keys_of(data: LightningDataModule, part: str, rows: Rows | None) -> list[str]:
    """Names of the pictures of a part: of all, or in the order of ``rows``."""
    records = getattr(data, part, None) or getattr(data, "test", [])
    names = [record.key for record in records]
    return (
        names if rows is None else [names[index] if index < len(names) else str(index) for index in rows.index.tolist()]
    )


def dataset_of(loader: Any) -> Dataset:
    """The data set of a loader or of the only loader of a list."""
    return loader[0].dataset if isinstance(loader, list | tuple) else loader.dataset


def item_of(dataset: Dataset, index: int) -> dict[str, Any]:
    """The item reported under ``index``: its position in the data set, below a Subset in the one it is taken from."""
    return dataset.dataset[index] if isinstance(dataset, Subset) else dataset[index]


def posterior_results(pl_module: LightningModule, rows: Rows, error: Tensor, labelled: Tensor) -> dict[str, Any]:
    """The section ``posterior`` of results.json, if the method has one."""
    if not rows.posterior:
        return {}
    section = posterior_section(pl_module.posterior_info(), rows, error, labelled)  # type: ignore[operator]
    return {"posterior": section} if section else {}


def group_metrics(records: list, rows: Rows, error: Tensor) -> dict[str, dict[str, float]]:
    """Metrics of each sequence or object of the test part, if it names any: pictures of one car are not independent."""
    groups: dict[str, list[int]] = {}
    for position, index in enumerate(rows.index.tolist()):
        name = group_of(records, index)
        if name and not error[position].isnan():
            groups.setdefault(name, []).append(position)
    if not 1 < len(groups) <= 50:
        return {}
    return {name: pose_metrics(error[positions]) for name, positions in sorted(groups.items())}


def group_of(records: list, index: int) -> str:
    """The object or sequence of a test picture, else how much of it is hidden (KITTI); empty where neither is known."""
    return (records[index].group or records[index].occlusion or "") if index < len(records) else ""


def groups_caption(groups: dict[str, dict[str, float]]) -> str:
    """``ACC pi/6 by group: sequence 08 91.2, ...``, or nothing."""
    if not groups:
        return ""
    values = [f"{name} {metrics['acc_pi_6']:.1f}" for name, metrics in groups.items()]
    return f"ACC pi/6 by group: {', '.join(values[:12])}{', ...' if len(values) > 12 else ''}."


def named(data: LightningDataModule, rows: Rows) -> tuple[list[str], list[str]]:
    """Keys and groups of the test pictures of ``rows``; the group is empty where there is none."""
    records = getattr(data, "test", [])
    groups = [group_of(records, index) for index in rows.index.tolist()]
    return keys_of(data, "test", rows), groups


def prediction_table(keys: list[str], groups: list[str], rows: Rows, truth: Tensor, error: Tensor) -> str:
    """CSV, one line a test picture: key, predicted and true angles and error in degrees, loss, group; what is known of
    its distribution; and where the solver placed the object (:data:`PLACED`), if it was free to.
    """
    names = ("azimuth_deg", "elevation_deg", "theta_deg")
    head = ("key", *names, *(f"true_{name}" for name in names), "error_deg", "loss", "group")
    numbers = torch.cat((rows.viewpoint_deg, truth.rad2deg(), rows.loss[:, None]), -1)
    # all digits: a pose of the grid may be off by just ten degrees, and tables made of this file count as results.json
    errors = [told(value, ".9g") for value in error.double().rad2deg().tolist()]
    lines = [
        (key, *map(told, angles), degrees, told(loss), group)
        for key, group, degrees, (*angles, loss) in zip(keys, groups, errors, numbers.tolist(), strict=True)
    ]
    more, columns = posterior_columns(rows.posterior)
    if rows.placement.isfinite().any():
        more, known = [*more, *PLACED], columns or [[]] * len(lines)
        columns = [[*own, *where] for own, where in zip(known, rows.placement.tolist(), strict=True)]
    if more:
        pairs = zip(lines, columns, strict=True)
        lines = [(*line, *map(told, further)) for line, further in pairs]
    return csv_text([(*head, *more), *lines])


def told(value: float, digits: str = ".4f") -> str:
    """A number as text; nothing where it is not known."""
    return "" if value != value else format(value, digits)


def csv_text(lines: list[tuple]) -> str:
    """Rows as CSV."""
    file = io.StringIO()
    csv.writer(file, lineterminator="\n").writerows(lines)
    return file.getvalue()
