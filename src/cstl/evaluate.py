"""Evaluate a checkpoint: `python -m cstl.evaluate checkpoint=PATH`."""

import hydra
from omegaconf import DictConfig

from cstl import run
from cstl.config import CONFIG_PATH


@hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name="evaluate")
@run.command
def main(config: DictConfig) -> None:
    """Run the command."""
    run.evaluate(config)


if __name__ == "__main__":
    main()
