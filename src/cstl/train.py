"""Train a configured run, or go on with it: `python -m cstl.train dataset=casiab res=128`."""

import hydra
from omegaconf import DictConfig

from cstl import run
from cstl.config import CONFIG_PATH


@hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name="train")
@run.command
def main(config: DictConfig) -> None:
    """Run the command."""
    run.train(config)


if __name__ == "__main__":
    main()
