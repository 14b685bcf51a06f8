"""A store that is there already: was it made as is asked for, and of the raw tree as it is now?"""

import json
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cstl.data.frames import Files
from cstl.data.store import Store, open_store, partial_folder
from cstl.files import read_rows, shown
from cstl.preparation.chunks import Outcome, list_chunk, prepare_sequence
from cstl.preparation.join import Summary, summary_of
from cstl.preparation.layouts import RawSequence, spread
from cstl.preparation.plan import OPTIONS, Chunk, Plan, Preparation, plan_preparation, relative
from cstl.preparation.sources import Changes, Name, find_changes, read_sources, source_of
from cstl.progress import Steps

AGAIN = 500  # sequences, at most, that are read again to see whether files that were copied are the same
_ELSE = "or give another one with dataset.store=PATH"


def existing(asked: Preparation) -> Store | None:
    """Open the store that is there, None where there is none; FileExistsError if it was made otherwise."""
    out, settings = Path(asked.out), asked.settings
    if not out.exists():
        return None
    if not (out / "store.json").is_file():
        raise FileExistsError(f"{out} exists and is no store; move it away or give dataset.store=PATH")
    store = open_store(out)
    about = OPTIONS | store.about  # an earlier version did not have every option
    differs = [name for name in settings if about.get(name) != settings[name]]
    if "subjects" in differs and set(settings["subjects"]) <= set(about.get("subjects", ())):
        differs.remove("subjects")  # more subjects than are asked for do no harm
    if differs:
        details = "; ".join(f"{n}: {_brief(about.get(n))} there, {_brief(settings[n])} now" for n in differs)
        raise FileExistsError(
            f"{out} was prepared with other settings ({details}); delete the folder to prepare it again, "
            f"{_ELSE}"
        )
    if asked.strict and about["examples"]:
        raise FileExistsError(
            f"{out} was prepared without strict=true and leaves files out that cannot be used, "
            f"{about['examples'][0]} the first of them (dropped.csv names all); delete the folder to "
            "prepare it again"
        )
    # a kill after the move leaves it, or a shard that came late
    shutil.rmtree(partial_folder(out), ignore_errors=True)
    return store


def compared(store: Store, asked: Preparation, mine: slice, progress: bool) -> Summary:
    """Sum up a store that is there, after a look at what it was made of; of the files only those of some
    chunks.

    Raises:
        FileExistsError: the raw tree is not what the store was made of.
    """
    raw = asked.raw
    if raw is not None and not os.path.exists(raw) and os.path.abspath(raw) == store.about.get("raw"):
        return summary_of(store, [f"{store.origin}; that folder is gone, so it could not be compared"])
    try:
        plan = plan_preparation(asked)
    except (ValueError, OSError) as error:
        raise FileExistsError(f"{store.path} is there already, {store.origin}. Now {error}") from error
    then, now = store.about, json.loads(json.dumps(plan.settings))
    if differs := [n for n in ("layout", "source") if then.get(n) != now[n]]:
        raise _not_the_same(store, plan, "; ".join(f"{n}: {then.get(n)} then, {now[n]} now" for n in differs))
    there, people = read_sources(store), set(plan.settings["subjects"])
    if there is None:
        return _compared_by_names(store, plan, people)
    there = {name: source for name, source in there.items() if name[0] in people}
    present = [sequence.name for sequence in plan.sequences]
    changes = find_changes(there, [], present)  # before any file is looked at
    again: Sequence[Name] = ()
    if not str(changes):
        chunks = plan.chunks[mine]
        looked: dict[Name, tuple[RawSequence, Files]] = {}
        with Steps("sequences", progress) as bar:
            task = bar.add_task("comparing", total=sum(len(chunk.sequences) for chunk in chunks))
            for chunk in chunks:
                looked |= {pair[0].name: pair for pair in list_chunk(chunk)}
                bar.advance(task, len(chunk.sequences))
        sources = {name: source_of(*pair) for name, pair in looked.items()}
        changes = find_changes(there, list(sources.values()), present)
        again = spread(changes.touched, AGAIN)
        rewritten = [name for name in again if _frames_now(plan, *looked[name]) != _frames_then(store, name)]
        changes.changed.extend((there[name], sources[name]) for name in rewritten)
    if different := str(changes):
        raise _not_the_same(store, plan, different)
    notes = [store.origin]
    if os.path.abspath(plan.raw) != store.about.get("raw"):
        notes = [f"{store.origin}; {shown(plan.raw)} holds the same files"]
    if changes.touched:
        several = f"{len(changes.touched):,} sequences were copied or written again since"
        notes.append(f"{several}; {len(again):,} of them were read, and give the same frames")
    return summary_of(store, notes)


def _compared_by_names(store: Store, plan: Plan, people: set[str]) -> Summary:
    """Do as `compared` for a store that an earlier version made: it does not say which files there were."""
    kept = {name for name in store.names if name[0] in people}
    dropped = {
        row.get("path") for row in read_rows(store.path / "dropped.csv") if row.get("what") == "sequence"
    }
    now = {sequence.name: relative(sequence.folder, plan.raw) for sequence in plan.sequences}
    gone = sorted(kept - now.keys())
    new = sorted(name for name, folder in now.items() if name not in kept and folder not in dropped)
    if different := str(Changes(gone, new, [], [])):
        raise _not_the_same(store, plan, different)
    return summary_of(
        store, [f"{store.origin} by an earlier version: only the sequences' names could be compared"]
    )


def _frames_now(plan: Plan, sequence: RawSequence, files: Files) -> bytes:
    """Give what a store would hold of these files."""
    chunk = Chunk(0, (sequence,), plan.settings, plan.partial, plan.raw, strict=False)
    return b"".join(prepare_sequence(sequence, files, chunk, Outcome("")))


def _frames_then(store: Store, name: Name) -> bytes:
    """Give what a store holds of a sequence, nothing where it was dropped."""
    rows = (store.subjects == name[0]) & (store.conditions == name[1]) & (store.views == name[2])
    places = zip(store.starts[rows], store.lengths[rows], strict=True)
    return b"".join(store.frames[start : start + length].tobytes() for start, length in places)


def _not_the_same(store: Store, plan: Plan, what: str) -> FileExistsError:
    return FileExistsError(
        f"{store.path} was {store.origin}, and {shown(plan.raw)} is not the same: {what}. Delete "
        f"{store.path} to prepare it again, {_ELSE}; to use it as it is, there is nothing to prepare"
    )


def _brief(value: Any) -> str:
    if not isinstance(value, Sequence) or isinstance(value, str):
        return str(value)
    return f"{len(value)} ({', '.join(value[:2])}, …, {value[-1]})" if len(value) > 3 else ", ".join(value)
