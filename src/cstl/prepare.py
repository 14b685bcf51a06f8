"""Prepare a store from raw frames: `python -m cstl.prepare dataset=casiab res=128 dataset.raw=PATH`."""

import hydra
from omegaconf import DictConfig

from cstl import run
from cstl.config import CONFIG_PATH


@hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name="prepare")
@run.command
def main(config: DictConfig) -> None:
    """Run the command."""
    run.prepare(config)


if __name__ == "__main__":
    main()
