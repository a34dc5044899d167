"""Progress of the E-step in the same display as training."""

from collections.abc import Iterator
from typing import Any

from lightning.pytorch import Trainer
from lightning.pytorch.callbacks import RichProgressBar


class EMProgressBar(RichProgressBar):
    """Lightning's rich progress bar, which can also follow an E-step."""

    def get_metrics(self, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """What stands beside the bar: without the version number of a logger, which says nothing in a run folder."""
        return {name: value for name, value in super().get_metrics(*args, **kwargs).items() if name != "v_num"}

    def matching(self, loader: Any, text: str) -> Iterator[Any]:
        """The batches of ``loader``, shown as one more bar."""
        self._init_progress(self.trainer)
        if self.progress is None:  # disabled on this process
            yield from loader
            return
        task = self.progress.add_task(f"[white]{text}", total=len(loader))
        for batch in loader:
            yield batch
            self.progress.update(task, advance=1)
            self.progress.refresh()
        self.progress.remove_task(task)


def matching(trainer: Trainer, loader: Any, text: str) -> Iterator[Any]:
    """The batches of ``loader``, with progress where the trainer has an :class:`EMProgressBar`."""
    bar = trainer.progress_bar_callback
    return bar.matching(loader, text) if isinstance(bar, EMProgressBar) else iter(loader)
