"""Check a store: counts, odd sequences, a sheet of pictures.

python -m cstl.check dataset=casiab res=128
"""

from pathlib import Path

from omegaconf import DictConfig
from rich.console import Console
from rich.text import Text

from cstl.config import plain
from cstl.data.protocol import protocol_of
from cstl.data.store import open_store, verify_store
from cstl.preparation.check import StoreCheck, check_store, contact_sheet, write_check
from cstl.preparation.inspection import look_at_masks
from cstl.reporting.tables import render
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
    counts = check_store(store, protocol_of(plain(dataset)), published, progress=True)
    write_check(counts, contact_sheet(store, config.sequences, config.seed), Path(config.out))
    show(counts)
    say(f"tables and a contact sheet: {config.out}")


def show(found: StoreCheck, console: Console = CONSOLE) -> None:
    """Print what was found."""
    for title, (columns, rows) in found.tables().items():
        console.print(Text(title, style="bold"))
        words = [i for i, name in enumerate(columns) if name in ("view", "", "by", "verdict")]
        console.print(render(columns, rows, "terminal", words=words))
        console.print()
    for line in found.findings():
        console.print(line, highlight=False)


main = command(check, then="train")

if __name__ == "__main__":
    main()
