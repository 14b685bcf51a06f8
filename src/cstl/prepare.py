"""Prepare raw silhouettes as a store, at once or in shards.

python -m cstl.prepare dataset=casiab res=128 dataset.raw=PATH
python -m cstl.prepare -m hydra/launcher=submitit_slurm 'shard=range(0,64)'
"""

from omegaconf import DictConfig

from cstl.config import plain
from cstl.preparation.plan import OPTIONS
from cstl.preparation.prepare import prepare as prepare_store
from cstl.preparation.prepare import prepare_shard
from cstl.running.command import command, typed_again
from cstl.running.console import say
from cstl.running.processes import naming_what_was_lost


@naming_what_was_lost()
def prepare(config: DictConfig) -> None:
    """Prepare the data set's store from its raw frames, or one shard of it."""
    dataset = config.dataset
    if dataset.raw is None:
        raise ValueError(
            f"where are the raw frames of {dataset.name}? Name their folder:\n"
            f"  python -m cstl.prepare dataset={dataset.name} res={config.res} dataset.raw=PATH"
        )
    settings = {
        "dataset": dataset.name,
        "protocol": plain(dataset.protocol),
        "res": config.res,
        "layout": dataset.get("layout", "auto"),
        "workers": config.get("workers"),
        "strict": config.get("strict", False),
        "upsample": config.get("upsample", False),
        "subset": config.get("subset", False),
        "options": {key: plain(dataset)[key] for key in OPTIONS if key in dataset},
        "typed": typed_again(r"shards?=") if "shard" in config else None,  # training prepares its walkers itself
    }
    if config.get("shard") is None:
        say(prepare_store(dataset.raw, dataset.store, **settings))
    else:
        say(prepare_shard(dataset.raw, dataset.store, shard=config.shard, shards=config.shards, **settings))


main = command(prepare, then="check")

if __name__ == "__main__":
    main()
