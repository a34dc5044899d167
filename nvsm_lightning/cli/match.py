"""``nvsm match``: the single-anchor matching experiment; model, data and trainer are configured as for ``nvsm fit``."""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_info
from rich.console import Console

from nvsm_lightning.bench.contenders import Contender, frozen_contenders, trained_contender
from nvsm_lightning.bench.kitti import run_names
from nvsm_lightning.bench.matching import Matches, Matching, MatchingSpec
from nvsm_lightning.bench.matching_plots import gallery, plot_epochs, plot_features
from nvsm_lightning.bench.matching_tables import Summary, markdown, match_table, rich_tables, summarise, summary_table
from nvsm_lightning.cli.checkpoints import check_category, read_hyper_parameters
from nvsm_lightning.cli.lightning_cli import NVSMCLI, run_cli, split_arguments
from nvsm_lightning.errors import ConfigError, WeightsError
from nvsm_lightning.features.backbone import BackboneSpec
from nvsm_lightning.methods.neural_mesh import NeuralMesh
from nvsm_lightning.report.callback import make_folder, snake_case
from nvsm_lightning.report.results import git_commit, write_json, write_text
from nvsm_lightning.training.trainer import EMTrainer


def run(argv: Sequence[str]) -> int:
    """``nvsm match --config ... [--ckpt_path FILE_OR_RUN ...] [settings]``."""
    import nvsm_lightning.data
    import nvsm_lightning.methods  # noqa: F401
    from nvsm_lightning.data.module import PoseData
    from nvsm_lightning.methods.base import PoseMethod

    run_cli(MatchCLI, one_list_of_checkpoints(argv), PoseMethod, PoseData, MatchTrainer)
    return 0


def one_list_of_checkpoints(argv: Sequence[str]) -> list[str]:
    """The same words with every ``--ckpt_path X [Y ...]`` gathered into one option that holds a list."""
    command, files, options = split_arguments(argv)
    rest, paths, reading = list[str](), list[str](), False
    for word in options:
        if word.startswith("--ckpt_path="):
            paths.append(word.removeprefix("--ckpt_path="))
            reading = False
        elif word.startswith("-"):
            reading = word == "--ckpt_path"
            rest += [] if reading else [word]
        else:
            (paths if reading else rest).append(word)
    listed = [part for path in paths for part in (json.loads(path) if path.startswith("[") else [path])]
    return [
        command,
        *(word for file in files for word in ("--config", file)),
        *rest,
        *([f"--ckpt_path={json.dumps(listed)}"] if listed else []),
    ]


class MatchTrainer(EMTrainer):
    """The trainer of a fit, of which the experiment uses device and precision."""

    def match(
        self,
        model: LightningModule,
        datamodule: LightningDataModule,
        experiment: "Experiment",
        ckpt_path: list[str] | str | None = None,
        weights_only: bool | None = None,
    ) -> None:
        """Rotation error of the pictures that match a labelled one, against the pose shift (NVSM's matching quality).

        Args:
            model: whose mesh, space and first weights are used.
            datamodule: labelled pictures and pool.
            experiment: what to compare.
            ckpt_path: checkpoints to compare with the untrained features: files, or run folders, of which all that
                `--trainer.em.keep_rounds true` has kept and the last are taken; may be given several times.
            weights_only: not used; stands in the config.yaml of a fit.
        """
        if not isinstance(getattr(model, "model", None), NeuralMesh):
            raise ConfigError(f"nvsm match needs a neural mesh model (NeMo or NVSM); got {type(model).__name__}.")
        device = self.strategy.root_device
        self.strategy.connect(model)  # k-means (--data.anchors) asks it
        datamodule.trainer = self
        if getattr(datamodule, "extra_pool", None):
            rank_zero_info("nvsm match looks at the own pool alone: --data.extra_pool is left out")
        model.to(device).eval()
        experiment.run(model.model, datamodule, device, self.precision_plugin.forward_context)  # type: ignore[arg-type]


class MatchCLI(NVSMCLI):
    """The command line of ``nvsm match``."""

    checkpoints: list[Path]

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The options of the experiment, too."""
        super().add_arguments_to_parser(parser)
        parser.add_class_arguments(MatchingSpec, None)

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The one command, with the arguments that are no options."""
        return {"match": {"model", "datamodule", "experiment"}}

    def _parse_ckpt_path(self) -> None:
        """Find the checkpoints and compare their category; they bring their backbone, the model is the configured."""
        self.subcommand = self.config["subcommand"]
        config = self.config[self.subcommand]
        given = config.get("ckpt_path") or []
        self.checkpoints = find_checkpoints([given] if isinstance(given, str) else given)
        for path in self.checkpoints:
            check_category(str(path), read_hyper_parameters(str(path)), config.get("data.init_args.category"))

    def _fill_run_folder(self, config: Namespace) -> Path:
        given, config["ckpt_path"] = config["ckpt_path"], str(self.checkpoints[-1]) if self.checkpoints else None
        folder = super()._fill_run_folder(config)  # beside the last checkpoint
        config["ckpt_path"] = given
        return folder

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        config.update(devices=1, num_nodes=1, strategy="auto", logger=False)
        return super()._instantiate_trainer(config, callbacks)

    def before_match(self) -> None:
        """Run folder, embedded set, and the settings written down."""
        self.before_fit()
        parser = self._parser("match")
        parser.save(self.config["match"], self.run_folder / "config.yaml", skip_none=False, overwrite=True)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        config = self.config_init[subcommand]
        spec = MatchingSpec(**{entry.name: config[entry.name] for entry in dataclasses.fields(MatchingSpec)})
        experiment = Experiment(spec, self.checkpoints, self.run_folder, int(config["seed_everything"]))
        return {"model": self.model, "datamodule": self.datamodule, "experiment": experiment}


def find_checkpoints(paths: Sequence[str]) -> list[Path]:
    """The checkpoints that are meant by files and run folders, in order of training within a folder.

    Raises:
        WeightsError: a folder without checkpoints. (A file that is not there is found when it is read.)
    """
    found = []
    for path in (Path(path).expanduser() for path in paths):
        inside = path / "checkpoints" if (path / "checkpoints").is_dir() else path
        last = "em.ckpt" if (inside / "em.ckpt").is_file() else "last.ckpt"  # which --guard may have exchanged
        kept = sorted(inside.glob("round_*.ckpt")) + sorted(inside.glob(last))
        if path.is_dir() and not kept:
            raise WeightsError(f"{path} holds no checkpoints (round_*.ckpt, last.ckpt); give a run folder or a file.")
        found += kept if path.is_dir() else [path]
    return list(dict.fromkeys(found))


def checkpoint_contender(path: Path, run: str) -> Contender:
    """The features of a checkpoint, named by its file, its ``run`` where there are several, and its epochs."""
    settings = read_hyper_parameters(str(path))["init_args"].get("backbone")
    if not isinstance(settings, dict):
        raise WeightsError(f"{path} names no backbone in its settings; give a checkpoint of NeMo or NVSM.")
    content = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    epochs = content["loops"]["fit_loop"]["epoch_progress"]["total"]["ready"]  # "epoch" counts what was completed
    name = f"{run}/{path.stem}" if run else path.stem
    spec = BackboneSpec(**settings)
    return trained_contender(f"{name} (epoch {epochs})", spec, content["state_dict"], epochs)


def epochs_of(summaries: Sequence[Summary], stems: set[str]) -> list[Summary]:
    """The azimuth shifts of the checkpoints with these file names, before them those of the features that a fit starts
    from; nothing where these are fewer than two.
    """
    azimuth = [one for one in summaries if one.angle == "azimuth"]
    kept = [one for one in azimuth if one.features.split(" (")[0] in stems]
    if not any(one.epochs == 0 for one in kept):
        kept = [one for one in azimuth if one.features == "frozen project"] + kept
    return kept if len({one.epochs for one in kept}) > 1 else []


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Runs the contenders one after another and writes tables/ and media/ of the run folder."""

    spec: MatchingSpec
    checkpoints: list[Path]
    folder: Path
    seed: int

    def run(self, model: NeuralMesh, data: Any, device: torch.device, precision: Any) -> None:
        """Measure, draw, write, print."""
        data.setup("match")
        matching = Matching(model, data, self.spec, device, precision)
        places = [path.resolve().parent for path in self.checkpoints]
        runs = [place.parent if place.name == "checkpoints" else place for place in places]
        several, names = len(set(runs)) > 1, run_names(runs)
        contenders = frozen_contenders(model.backbone.spec, self.spec.features, self.seed)
        contenders += [
            checkpoint_contender(path, names[run] if several else "")
            for path, run in zip(self.checkpoints, runs, strict=True)
        ]
        matches, media = [], make_folder(self.folder / "media")
        for contender in contenders:
            found, backbone = matching.run(contender)
            matches.append(found)
            if self.spec.gallery:
                name = snake_case(contender.name.split(" (")[0]).replace(" ", "_").replace("/", "_")
                gallery(matching, found, backbone).save(media / f"gallery_{name}.png")
        self._write(matching, matches, data, several)

    def _write(self, matching: Matching, matches: list[Matches], data: Any, several: bool) -> None:
        rows = [*matches, *matching.references()]
        each = [one for found in rows for one in summarise(found, matching.shifts)]
        merged = [one for found in rows for one in summarise(found, matching.shifts, merged=True)]
        tables, media = self.folder / "tables", self.folder / "media"
        write_text(tables / "matches.csv", match_table(matches, matching))
        write_text(tables / "matching.csv", summary_table(each))
        write_text(tables / "matching.md", markdown(merged))
        name = getattr(data, "name", "data")
        spec = self.spec
        title = f"{name}: {spec.anchors} anchors, top {spec.top} of {len(data.pool)} pictures"
        trained = [] if several else epochs_of(each, {path.stem for path in self.checkpoints})
        if trained:
            plot_epochs(trained, media / "error_by_epoch.png", title)
        earlier = {
            one.features for one in trained if 0 < (one.epochs or 0) < max(other.epochs or 0 for other in trained)
        }
        plot_features([one for one in each if one.features not in earlier], media / "error_by_features.png", title)
        content = {"dataset": name, "synthetic": bool(getattr(data, "synthetic", False)),
                   "azimuth_only": matching.azimuth_only, "seed": self.seed, "n_pool": len(data.pool),
                   "settings": dataclasses.asdict(spec), "rows": [dataclasses.asdict(one) for one in each],
                   "git_commit": git_commit()}  # fmt: skip
        write_json(self.folder / "results.json", content)
        caption = "median [95 % bootstrap interval over the anchors], share of errors above 150 degrees. "
        caption += f"Pictures of the anchor's own group {'are left out' if matching.leaves_out_own_group else 'count'}."
        caption += " Only azimuths are compared." if matching.azimuth_only else ""
        console = Console(width=max(Console().width, 160))
        for table in rich_tables(merged, title, caption):
            console.print(table, highlight=False)
        console.print(f"tables and pictures in {self.folder}", highlight=False, soft_wrap=True)
