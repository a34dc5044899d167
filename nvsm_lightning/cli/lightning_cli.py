"""``nvsm fit | validate | test | predict``: Lightning's command line with our classes, run folders and checkpoint
rules.

Order of settings, each winning over those before it: the packaged ``base.yaml``; every ``--config`` from left to right;
for ``validate``, ``test`` and ``predict`` the model settings of the checkpoint; every other option of the command line.
"""

import copy
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import yaml
from jsonargparse import Namespace
from lightning.pytorch import LightningDataModule, LightningModule, Trainer
from lightning.pytorch.callbacks import Callback, ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.utilities import rank_zero_info

from nvsm_lightning.cli import guard
from nvsm_lightning.cli.checkpoints import (
    LIGHTNING_NAMES,
    check_category,
    read_hyper_parameters,
    without_weight_file,
)
from nvsm_lightning.cli.left_out import left_out
from nvsm_lightning.cli.parser import SuggestingParser
from nvsm_lightning.cli.run_folder import FreshFolder, choose_run_folder, leave_no_empty_folder
from nvsm_lightning.errors import ConfigError, NVSMError, WeightsError
from nvsm_lightning.methods.category_mesh import warn_where_cut
from nvsm_lightning.report.callback import RunReport
from nvsm_lightning.report.em_panels import EMPanels
from nvsm_lightning.training.schedule import EMSchedule

BASE = Path(__file__).with_name("base.yaml")
COMMANDS = ("fit", "validate", "test", "predict")


def run(argv: Sequence[str]) -> int:
    """Run one of the four commands with the classes of this package."""
    import nvsm_lightning.data
    import nvsm_lightning.methods  # noqa: F401
    from nvsm_lightning.data.module import PoseData
    from nvsm_lightning.methods.base import PoseMethod
    from nvsm_lightning.training.trainer import EMTrainer

    run_command(argv, PoseMethod, PoseData, EMTrainer)
    return 0


def run_command(
    argv: Sequence[str],
    model_class: type[LightningModule],
    data_class: type[LightningDataModule],
    trainer_class: type[Trainer],
) -> "NVSMCLI":
    """Parse and run a command; returns the finished :class:`NVSMCLI`, which has trainer, model and datamodule."""
    command, files, options = split_arguments(argv)
    with tempfile.TemporaryDirectory() as folder:
        named = [path for file in files if (path := content_of(file).get("ckpt_path"))]
        checkpoint = option_value(options, "ckpt_path") or (named[-1] if named else None)
        if checkpoint and command != "fit":
            stored = Path(folder) / "checkpoint.yaml"
            settings = without_weight_file(read_hyper_parameters(checkpoint))
            settings["init_args"].pop("category", None)  # follows data.category; compared once that is known
            stored.write_text(yaml.safe_dump({"model": settings}))
            files = [without_model(file, Path(folder) / f"{number}.yaml") for number, file in enumerate(files)]
            files = [*files, str(stored)]
        arguments = [command, *(part for file in files for part in ("--config", file)), *options]
        return run_cli(NVSMCLI, arguments, model_class, data_class, trainer_class)


def content_of(file: str) -> dict[str, Any]:
    """What a configuration file says; nothing where it cannot be read, for which the parser has better words.

    Raises:
        ConfigError: it holds no text, where the parser would break off.
    """
    try:
        content = yaml.safe_load(Path(file).expanduser().read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        raise ConfigError(f"--config {file} is no text file.") from error
    except (OSError, yaml.YAMLError):
        return {}
    return content if isinstance(content, dict) else {}


def without_model(file: str, copy: Path) -> str:
    """The same configuration file, or a copy without its section ``model``: of another method, perhaps (a data set's
    file speaks of NeMo's), it would not be understood; the checkpoint's comes after it anyway."""
    content = content_of(file)
    if content.pop("model", None) is None:
        return file
    copy.write_text(yaml.safe_dump(content), encoding="utf-8")
    return str(copy)


def run_cli(
    cli_class: "type[NVSMCLI]",
    arguments: Sequence[str],
    model_class: type[LightningModule],
    data_class: type[LightningDataModule],
    trainer_class: type[Trainer],
) -> "NVSMCLI":
    """Parse and run one of the commands of ``cli_class``, with our parser and our errors."""
    quiet()
    defaults = {"default_config_files": [str(BASE)]}
    try:
        return cli_class(
            model_class,
            data_class,
            trainer_class=trainer_class,
            args=list(arguments),
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            seed_everything_default=0,
            save_config_callback=SaveConfigCallback,
            save_config_kwargs={"overwrite": True},
            parser_class=SuggestingParser,
            parser_kwargs={
                "prog": "nvsm", "allow_abbrev": False, **{name: dict(defaults) for name in cli_class.subcommands()}
            },
        )  # fmt: skip
    except SystemExit as end:
        if isinstance(end.__context__, KeyboardInterrupt):  # which Lightning has turned into a mere status
            raise KeyboardInterrupt from None
        raise
    except Exception as error:
        leave_no_empty_folder()
        own = own_error(error, option_value(arguments, "ckpt_path"))
        if own is None or own is error:
            raise
        raise own from error


class NVSMCLI(LightningCLI):
    """LightningCLI with run folders, always-present report and checkpoint callbacks, and a test after every fit."""

    untrained: Any = None  # copy of the model that the guard asks

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The options beyond Lightning's own."""
        parser.add_argument("--name", type=str, default="nvsm", help="Name of the run: runs/<name>/<time>.")
        parser.add_argument(
            "--run_dir",
            type=str | None,
            default=None,
            help="The folder of this run itself, instead of runs/<name>/<time>.",
        )
        parser.add_argument(
            "--test_after_fit",
            type=bool,
            default=True,
            help="Whether fit ends with the test pictures and the final table.",
        )
        parser.add_argument(
            "--guard",
            type=str,
            default="none",
            help="After a fit with E-steps, compare its model with one of the labelled pictures alone, by labels and "
            "pool, and keep the better: none, fit (train that model in <run>/labelled_only), or the run folder or "
            "checkpoint of a NeMo fit.",
        )
        parser.add_lightning_class_args(ModelCheckpoint, "checkpoint")
        parser.add_lightning_class_args(RunReport, "report")
        parser.add_lightning_class_args(EMPanels, "panels")
        parser.link_arguments("data.init_args.category", "model.init_args.category")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """The four commands, each with the arguments of its method that are no options."""
        # What is skipped here would stand in config.yaml, and `nvsm test --config <fit>/config.yaml` must accept that
        # file.
        common = {"model", "dataloaders", "datamodule", "verbose", "return_predictions"}
        return {
            "fit": {"model", "train_dataloaders", "val_dataloaders", "datamodule"},
            **{name: common for name in ("validate", "test", "predict")},
        }

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, and keep the names of the configuration files."""
        self.config = parser.parse_args(args)  # the original warns when sys.argv is there as well
        self.files = split_arguments(list(args))[1]

    def _parse_ckpt_path(self) -> None:
        """Lightning lets a checkpoint beat the command line; the order in this file's first lines replaces that."""
        self.subcommand = self.config["subcommand"]
        config = self.config[self.subcommand]
        path = config.get("ckpt_path")
        if self.subcommand != "fit" and not path:
            raise ConfigError(f"nvsm {self.subcommand} needs a trained model: --ckpt_path <run>/checkpoints/last.ckpt")
        if path == "last" and config.get("run_dir"):
            path = f"{config['run_dir']}/checkpoints/last.ckpt"
        if path and path not in LIGHTNING_NAMES:
            path = config["ckpt_path"] = str(Path(path).expanduser())
            check_category(path, read_hyper_parameters(path), config.get("data.init_args.category"))

    def instantiate_classes(self) -> None:
        """Build everything inside the run folder; the configuration that is kept names no folder of this run."""
        if self.subcommand == "fit":
            self._warm_up(self.config["fit"])
            self._check_saving(self.config["fit"])
        clean = self.config.clone()[self.subcommand]
        clean["run_dir"] = clean["trainer.default_root_dir"] = None  # what starts from config.yaml is another run
        if self.subcommand == "fit":
            clean["ckpt_path"] = None  # of a resumed fit
        self.run_folder = self._fill_run_folder(self.config[self.subcommand])
        super().instantiate_classes()
        if clean.get("trainer.precision") == "auto":
            clean["trainer.precision"] = self.trainer.precision  # a resumed fit must not choose anew
        self.config[self.subcommand].update(clean)

    @staticmethod
    def _warm_up(config: Namespace) -> None:
        """Add the epochs on the labels alone that their number asks for; the configuration that is kept has them."""
        em, labels = config.get("trainer.em"), config.get("data.init_args.labels")
        endless = config.get("trainer.max_epochs") in (None, -1)
        if not isinstance(em, Namespace) or not isinstance(labels, int) or endless:
            return
        if further := EMSchedule(**em.as_dict()).further_warmup(labels):
            config["trainer.em.warmup_epochs"] += further
            config["trainer.max_epochs"] += further
            rank_zero_info(
                f"{labels} labelled pictures: {config['trainer.em.warmup_epochs']} epochs on them before the first "
                f"E-step, {config['trainer.max_epochs']} in all (--trainer.em.many_labels 0: no such rule)"
            )

    @staticmethod
    def _check_saving(config: Namespace) -> None:
        """ConfigError if the last epoch would not be saved: what is tested would be in no file."""
        every, epochs = config.get("checkpoint.every_n_epochs"), config.get("trainer.max_epochs")
        if every and epochs and epochs > 0 and epochs % every:
            raise ConfigError(
                f"--checkpoint.every_n_epochs {every}: the last of {epochs} epochs would not be saved. Give a divisor "
                "of that number."
            )

    def _fill_run_folder(self, config: Namespace) -> Path:
        wanted = config.get("run_dir") or config.get("trainer.default_root_dir")
        folder = choose_run_folder(str(self.subcommand), wanted, config["name"], config.get("ckpt_path"))
        folder.mkdir(parents=True, exist_ok=True)
        config["trainer.default_root_dir"] = str(folder)
        earlier, first = folder / "config.yaml", folder / "config_first.yaml"
        if self.subcommand == "fit" and config.get("ckpt_path") and earlier.is_file() and not first.exists():
            shutil.copy(earlier, first)  # resuming writes config.yaml anew: what the run began with is kept
        loggers = config.get("trainer.logger")
        loggers = [loggers] if isinstance(loggers, Namespace) else loggers if isinstance(loggers, list) else []
        for logger in loggers:
            arguments = logger.get("init_args", Namespace())
            if "save_dir" in arguments:
                arguments["save_dir"] = str(folder)
            if "resume" in arguments:
                arguments["resume"] = bool(config.get("ckpt_path"))
        return folder

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        if self.subcommand != "fit":  # nothing to save, and no reason to speak of another run's checkpoint folder
            callbacks = [callback for callback in callbacks if not isinstance(callback, ModelCheckpoint)]
            config["enable_checkpointing"] = False
        elif not self.config["fit"].get("ckpt_path"):
            callbacks = [FreshFolder(self.run_folder), *callbacks]
        if config.get("enable_progress_bar") is False:  # base.yaml names the bar, and Lightning refuses to have both
            config["callbacks"] = [each for each in config["callbacks"] or [] if not isinstance(each, ProgressBar)]
        return super()._instantiate_trainer(config, callbacks)

    def before_fit(self) -> None:
        """Say where the run lies and which settings were left out; make the embedded set if it is wanted."""
        if int(os.environ.get("LOCAL_RANK", 0)) == 0:
            print(f"run folder: {self.run_folder}", flush=True)
            if names := left_out(self.files, self.config[self.subcommand]["model"]):
                print(f"{type(self.model).__name__} has no settings {', '.join(names)}: left out", flush=True)
            make_embedded_set(self.datamodule)
            if (crop := getattr(self.datamodule, "crop", None)) and hasattr(self.model, "mesh"):
                warn_where_cut(self.model.mesh, crop.height, crop.width, crop.pixels_per_unit)
        if self.subcommand == "fit":
            given = self.config["fit"]["guard"], self.config_init["fit"].get("ckpt_path")
            if guard.check(*given, self.model, self.datamodule, self.trainer):
                self.untrained = copy.deepcopy(self.model)

    before_validate = before_test = before_predict = before_fit

    def after_fit(self) -> None:
        """The test that ends every fit (whose data have test pictures), on the weights in memory: those of last.ckpt,
        chosen by no hidden label.
        """
        if self.untrained is not None:
            compared = self.model, self.datamodule, self.trainer, self.run_folder
            guard.keep_better(self.config["fit"]["guard"], self.untrained, *compared)
        if not getattr(self.datamodule, "test", True):
            rank_zero_info(
                "The fit is done. No picture is there to test it on (labelled rows with split test would be). Look at "
                f"poses: nvsm predict --config {self.run_folder}/config.yaml --ckpt_path "
                f"{self.run_folder}/checkpoints/last.ckpt --data.folder PICTURES"
            )
        elif self.config[self.subcommand]["test_after_fit"]:
            self.trainer.test(self.model, datamodule=self.datamodule, verbose=False)

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        arguments = super()._prepare_subcommand_kwargs(subcommand)
        if subcommand == "test":
            arguments["verbose"] = False  # RunReport prints the table
        if subcommand == "predict":
            arguments["return_predictions"] = False  # RunReport writes them
        return arguments


def make_embedded_set(data: LightningDataModule) -> None:
    """Make the embedded set where a run needs it and its folder is not there yet."""
    root = Path(getattr(data, "root", "") or ".").expanduser()
    if getattr(data, "name", "") == "toy_cars" and not root.exists():
        from nvsm_lightning.toy.dataset import make_toy

        make_toy(root)


def own_error(error: BaseException, checkpoint: str | None = None) -> NVSMError | None:
    """The error of ours behind ``error``, or None.

    jsonargparse wraps what the constructor of a class raises; torch reports weights that do not fit as a RuntimeError.
    """
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, NVSMError):
            return cause
        cause = cause.__cause__
    if isinstance(error, RuntimeError) and "loading state_dict" in str(error):
        detail = [line.strip() for line in str(error).splitlines() if line.strip()]
        return WeightsError(
            f"{checkpoint} does not fit the model that was asked for: {' '.join(detail[1:2])} "
            f"({len(detail) - 1} such lines). Give the config.yaml of the checkpoint's own run."
        )
    return None


def split_arguments(argv: Sequence[str]) -> tuple[str, list[str], list[str]]:
    """(command, configuration files in order, everything else in order), so that options win over files."""
    command, files, options = argv[0], [], []
    rest = iter(argv[1:])
    for word in rest:
        if word in ("-c", "--config"):
            value = next(rest, None)
            options.extend([word] if value is None else [])
            files.extend([] if value is None else [value])
        elif word.startswith("--config="):
            files.append(word.removeprefix("--config="))
        else:
            options.append(word)
    return command, files, options


def option_value(options: Sequence[str], name: str) -> str | None:
    """The last value given for ``--name`` among command line words."""
    value = None
    for word, after in zip(options, [*options[1:], None], strict=False):
        if word == f"--{name}":
            value = after
        elif word.startswith(f"--{name}="):
            value = word.split("=", 1)[1]
    return value


def quiet() -> None:
    """Silence advertisements and advice that do not apply; nothing about data or numbers."""
    os.environ.setdefault("WANDB_SILENT", "true")
    torch.set_float32_matmul_precision("high")  # a no-op on the CPU; Lightning asks for it on recent GPUs

    class NoTips(logging.Filter):
        """Lightning's log without advertisements."""

        def filter(self, record: logging.LogRecord) -> bool:
            """Whether a line is no advertisement."""
            text = record.getMessage()
            return not any(word in text for word in ("litlogger", "litmodels", "Tip:", "TPU available"))

    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero", "lightning.pytorch.trainer.setup"):
        logging.getLogger(name).addFilter(NoTips())
    advice = (
        "does not have many workers",
        "number of training batches",
        "callbacks used to create the checkpoint",
        "isinstance.treespec, LeafSpec",
        "in eval mode at the start of training",  # batch norm of pretrained trunks, frozen on purpose
        "You have overridden `transfer_batch_to_device`",
        "Total length of `list` across ranks is zero",  # no validation part, which the data set says itself
        "Grad strides do not match bucket view strides",  # of 1 x 1 convolutions in channels-last; no error, says torch
    )
    for message in (f".*{words}.*" for words in advice):
        warnings.filterwarnings("ignore", message)
