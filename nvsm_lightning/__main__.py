"""``python -m nvsm_lightning`` is ``nvsm``."""

from nvsm_lightning.cli.main import main

if __name__ == "__main__":
    raise SystemExit(main())
