"""Fixtures and settings shared by all tests."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("WANDB_SILENT", "true")

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder that holds configs/, tests/ and the package."""
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data():
    """``shared_data(name) -> Path``: a folder of real data, or a skip that says why.

    The place is ``$NVSM_SHARED_DATA``, else ``<repository>/../shared/data``. No real photograph is part of this
    repository.
    """

    def find(name: str) -> Path:
        root = Path(os.environ.get("NVSM_SHARED_DATA", REPOSITORY.parent / "shared" / "data"))
        folder = root / name
        if not folder.exists():
            pytest.skip(f"no real data at {folder}: set NVSM_SHARED_DATA to a folder that holds {name!r}")
        return folder

    return find
