"""Prepare raw silhouettes as a store, at once or in shards.

python -m cstl.prepare dataset=casiab res=128 dataset.raw=PATH
python -m cstl.prepare -m hydra/launcher=submitit_slurm 'shard=range(0,64)'
"""

from omegaconf import DictConfig

from cstl.config import plain
from cstl.data.protocol import protocol_of
from cstl.preparation.plan import OPTIONS, Preparation
from cstl.preparation.prepare import SHARDS
from cstl.preparation.prepare import prepare as prepare_store
from cstl.running.command import command, typed_again
from cstl.running.console import say
from cstl.running.processes import naming_what_was_lost


def prepare(config: DictConfig) -> None:
    """Prepare the data set's store from its raw frames, or one shard of it."""
    dataset = config.dataset
    if dataset.raw is None:
        raise ValueError(
            f"where are the raw frames of {dataset.name}? Name their folder:\n"
            f"  python -m cstl.prepare dataset={dataset.name} res={config.res} dataset.raw=PATH"
        )
    settings = plain(dataset)
    asked = Preparation(
        dataset.raw,
        dataset.store,
        dataset.name,
        protocol_of(settings),
        config.res,
        typed=typed_again(r"shards?=") if "shard" in config else None,  # training prepares its walkers itself
        **{key: settings[key] for key in ("layout", *OPTIONS) if key in settings},
        **{key: config[key] for key in ("strict", "upsample", "subset") if key in config},
    )
    shard, shards = config.get("shard"), config.get("shards", SHARDS)
    with naming_what_was_lost():
        say(prepare_store(asked, shard, shards, workers=config.get("workers")))


main = command(prepare, then="check")

if __name__ == "__main__":
    main()
