"""What a store was made of: a line for each sequence of the raw tree, to tell whether it is still that."""

import csv
import hashlib
import io
import os
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import NamedTuple

from cstl.data.frames import Files
from cstl.data.store import Store
from cstl.files import read_text, shown
from cstl.preparation.layouts import RawSequence

FILE = "sources.csv"
MOST = 2**29  # bytes of it: a few million sequences

Name = tuple[str, str, str]  # subject, condition, view


class Source(NamedTuple):
    """The files of a sequence: how many, a digest of their names and sizes, one of their times of change."""

    subject: str
    condition: str
    view: str
    files: int
    content: str
    times: str

    @property
    def name(self) -> Name:
        return self[:3]


class Changes(NamedTuple):
    """What of a raw tree is not what a store was made of; `touched`: only the times are others."""

    gone: list[Name]
    new: list[Name]
    changed: list[tuple[Source, Source]]  # then and now
    touched: list[Name]

    def __str__(self) -> str:
        """Say it for a message; `touched` alone say nothing."""
        parts = []
        for names, what in ((self.gone, "gone"), (self.new, "new")):
            if names:
                people = len({subject for subject, *_ in names})
                parts.append(
                    f"{len(names):,} sequence(s) of {people:,} subject(s) are {what} ({_examples(names)})"
                )
        if self.changed:
            then, now = self.changed[0]
            if then.files != now.files:
                files = f"{then.files} files then, {now.files} now"
            else:
                files = (
                    "other names or sizes"
                    if then.content != now.content
                    else "other pictures of the same names"
                )
            parts.append(
                f"{len(self.changed):,} sequence(s) have other files ({shown(' '.join(now.name))}: {files})"
            )
        return "; ".join(parts)


def source_of(sequence: RawSequence, files: Files) -> Source:
    """Look at the files of a sequence without opening them."""
    paths = [*files.pictures, *files.pickles, *(path for path, _ in files.faults)]
    content, times = [], []
    for path in paths:
        size = 0
        with suppress(OSError):  # a link to nothing is an unreadable frame
            stat = os.stat(path)
            size = stat.st_size
            times.append(f"{stat.st_mtime_ns}/")
        content.append(f"{size}/{path.rpartition(os.sep)[2]}\n")
    data = ("".join(parts).encode(errors="surrogateescape") for parts in (content, times))
    digests = (hashlib.blake2b(part, digest_size=8).hexdigest() for part in data)
    return Source(*sequence.name, len(paths), *digests)


def read_sources(store: Store) -> dict[Name, Source] | None:
    """Say what a store was made of; None where an earlier version did not write it down.

    Raises:
        ValueError: the file is damaged.
    """
    try:
        text = read_text(store.path / FILE, MOST, errors="surrogateescape")
        header, *rows = csv.reader(io.StringIO(text, newline=""))
        if header != list(Source._fields):
            raise ValueError(f"expected the columns {', '.join(Source._fields)}")
        sources = [
            Source(subject, condition, view, int(files), content, times)
            for subject, condition, view, files, content, times in rows
        ]
    except FileNotFoundError:
        return None
    except (ValueError, TypeError, IndexError, csv.Error) as error:
        raise ValueError(
            f"{store.path / FILE} is damaged ({shown(error, 200)}); delete the folder and prepare the store "
            "again"
        ) from None
    return {source.name: source for source in sources}


def find_changes(there: dict[Name, Source], now: Sequence[Source], names: Iterable[Name]) -> Changes:
    """Compare what a store was made of with what there is.

    Args:
        there: what the store was made of, as far as it is of interest.
        now: the sequences that were looked into.
        names: all sequences that there are.
    """
    names = set(names)
    pairs = [(there[source.name], source) for source in now if source.name in there]
    return Changes(
        gone=sorted(there.keys() - names),
        new=sorted(names - there.keys()),
        changed=[(then, source) for then, source in pairs if then[3:5] != source[3:5]],
        touched=[
            source.name for then, source in pairs if then[3:5] == source[3:5] and then.times != source.times
        ],
    )


def _examples(names: Sequence[Name]) -> str:
    return ", ".join(shown(" ".join(name)) for name in names[:3]) + (", …" if len(names) > 3 else "")
