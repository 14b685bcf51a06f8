"""Draw synthetic walkers, a benchmark without a licence.

python -m cstl.synthesize dataset=synthetic_large
"""

import time
from pathlib import Path

from omegaconf import DictConfig

from cstl.config import plain
from cstl.data.protocol import protocol_of
from cstl.owner import InUseError
from cstl.prepare import prepare
from cstl.running.command import command
from cstl.running.console import say
from cstl.running.processes import is_first, naming_what_was_lost, wait_for
from cstl.walkers.synthesis import synthesize as write_walkers


def synthesize(config: DictConfig) -> None:
    """Draw the data set's synthetic walkers as raw frames."""
    dataset = config.dataset
    if "synthesis" not in dataset:
        raise ValueError(
            f"dataset={dataset.name} is not synthetic; synthesize makes synthetic and synthetic_large"
        )
    protocol = protocol_of(plain(dataset))
    with naming_what_was_lost():
        write_walkers(
            dataset.raw,
            subjects=sorted(protocol.known_subjects),
            views=protocol.views,
            conditions=protocol.conditions,
            workers=config.get("workers"),
            **dataset.synthesis,
        )


def make_missing_walkers(config: DictConfig) -> None:
    """Draw and prepare synthetic walkers on first use; other data sets are the user's to prepare."""
    if "synthesis" not in config.dataset or (store := Path(config.dataset.store)).exists():
        return
    if not is_first():
        wait_for(store)
    waiting = False
    while not store.exists():
        try:
            synthesize(config)
            prepare(config)
        except InUseError as error:  # another run that was started at the same time makes them
            if not waiting:
                say(f"waiting: {error}")
            waiting = True
            time.sleep(1)


main = command(synthesize, then="prepare")

if __name__ == "__main__":
    main()
