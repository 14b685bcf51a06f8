"""Make the synthetic walkers: `python -m cstl.synthesize dataset=synthetic`."""

import hydra
from omegaconf import DictConfig

from cstl import run
from cstl.config import CONFIG_PATH


@hydra.main(version_base="1.3", config_path=CONFIG_PATH, config_name="synthesize")
@run.command
def main(config: DictConfig) -> None:
    """Run the command."""
    run.synthesize(config)


if __name__ == "__main__":
    main()
