"""Check a store: counts, odd sequences, a sheet of pictures.

python -m cstl.check dataset=casiab res=128
"""

from pathlib import Path

from omegaconf import DictConfig

from cstl.config import plain
from cstl.data.protocol import as_protocol
from cstl.data.store import open_store, verify_store
from cstl.preparation.check import check_store, contact_sheet, write_check
from cstl.preparation.inspection import look_at_masks
from cstl.running.command import command
from cstl.running.console import CONSOLE, say


def check(config: DictConfig) -> None:
    """Check the data set's store: counts, odd sequences, a sheet of pictures."""
    dataset = config.dataset
    store = open_store(dataset.store, dataset.name, config.res)
    say(verify_store(store, progress=True))
    for remark in look_at_masks(store):
        say(f"masks: {remark}")
    published = plain(dataset.published) if "published" in dataset else None
    counts = check_store(store, as_protocol(plain(dataset.protocol)), published, progress=True)
    write_check(counts, contact_sheet(store, config.sequences, config.seed), Path(config.out))
    CONSOLE.print(counts)
    say(f"tables and a contact sheet: {config.out}")


main = command(check, then="train")

if __name__ == "__main__":
    main()
