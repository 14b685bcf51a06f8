"""A store that is there already: was it made as is asked for, and of the raw tree as it is now?"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from cstl.data.frames import Files
from cstl.data.store import Store, open_store, partial_folder
from cstl.files import read_rows, shown
from cstl.preparation.chunks import Outcome, listed, prepare_sequence
from cstl.preparation.join import Summary, summary_of
from cstl.preparation.layouts import RawSequence, spread
from cstl.preparation.plan import OPTIONS, Chunk, Plan, names, plan_preparation, relative
from cstl.preparation.sources import Changes, Name, find_changes, read_sources, source_of
from cstl.progress import Steps

AGAIN = 500  # sequences, at most, that are read again to see whether files that were copied are the same


def existing(out: Path, settings: Mapping[str, Any], strict: bool) -> Store | None:
    """The store that is there, None where there is none; FileExistsError if it was made otherwise."""
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
        there = {name: _brief(about.get(name)) for name in differs}
        details = "; ".join(f"{name}: {there[name]} there, {_brief(settings[name])} now" for name in differs)
        raise FileExistsError(
            f"{out} was prepared with other settings ({details}); delete the folder to prepare it again, "
            "or give another one with dataset.store=PATH"
        )
    if strict and about["examples"]:
        raise FileExistsError(
            f"{out} was prepared without strict=true and leaves files out that cannot be used, "
            f"{about['examples'][0]} the first of them (dropped.csv names all); delete the folder to prepare it again"
        )
    shutil.rmtree(partial_folder(out), ignore_errors=True)  # a kill after the move leaves it, or a shard that came late
    return store


def compared(
    store: Store,
    raw: str | os.PathLike[str] | None,
    arguments: Mapping[str, Any],
    shard: int = 0,
    shards: int = 1,
    *,
    progress: bool,
) -> Summary:
    """The summary of a store that is there, after a look at what it was made of; only at a shard's share of the files.

    Raises:
        FileExistsError: the raw tree is not what the store was made of.
    """
    if raw is not None and not os.path.exists(raw) and os.path.abspath(raw) == store.about.get("raw"):
        return summary_of(store, [f"{store.origin}; that folder is gone, so it could not be compared"])
    try:
        plan = plan_preparation(raw, store.path, **arguments)
    except (ValueError, OSError) as error:
        raise FileExistsError(f"{store.path} is there already, {store.origin}. Now {error}") from error
    now = json.loads(json.dumps(plan.settings))
    if differs := [f"{name}: {store.about.get(name)} then, {now[name]} now" for name in ("layout", "source")
                   if store.about.get(name) != now[name]]:  # fmt: skip
        raise FileExistsError(_not_the_same(store, plan.raw, "; ".join(differs)))
    there, asked = read_sources(store), set(plan.settings["subjects"])
    if there is None:
        return _compared_by_names(store, plan, asked)
    there = {name: source for name, source in there.items() if name[0] in asked}
    present = [names(sequence) for sequence in plan.sequences]
    changes = find_changes(there, [], present)  # before any file is looked at
    if not str(changes):
        looked: dict[Name, tuple[RawSequence, Files]] = {}
        with Steps("sequences", progress) as bar:
            chunks = [plan.chunk(number) for number in range(shard, plan.chunks, shards)]
            task = bar.add_task("comparing", total=sum(len(chunk.sequences) for chunk in chunks))
            for chunk in chunks:
                looked |= {names(pair[0]): pair for pair in zip(chunk.sequences, listed(chunk), strict=True)}
                bar.advance(task, len(chunk.sequences))
        now = {name: source_of(*pair) for name, pair in looked.items()}
        changes = find_changes(there, list(now.values()), present)
        again = spread(changes.touched, AGAIN)
        rewritten = [name for name in again if _frames_now(plan, *looked[name]) != _frames_then(store, name)]
        changes.changed.extend((there[name], now[name]) for name in rewritten)
    if found := str(changes):
        raise FileExistsError(_not_the_same(store, plan.raw, found))
    notes = [store.origin]
    if os.path.abspath(plan.raw) != store.about.get("raw"):
        notes = [f"{store.origin}; {shown(plan.raw)} holds the same files"]
    if changes.touched:
        several = f"{len(changes.touched):,} sequences were copied or written again since"
        notes.append(f"{several}; {len(again):,} of them were read, and give the same frames")
    return summary_of(store, notes)


def _compared_by_names(store: Store, plan: Plan, asked: set[str]) -> Summary:
    """As `compared`, of a store that an earlier version made: it does not say which files there were."""
    rows = zip(store.subjects.tolist(), store.conditions.tolist(), store.views.tolist(), strict=True)
    kept = {name for name in rows if name[0] in asked}
    rows_of_it = read_rows(store.path / "dropped.csv")
    dropped = {row.get("path") for row in rows_of_it if row.get("what") == "sequence"}
    now = {names(sequence): relative(sequence.folder, plan.raw) for sequence in plan.sequences}
    gone = sorted(kept - now.keys())
    new = sorted(name for name, folder in now.items() if name not in kept and folder not in dropped)
    if found := str(Changes(gone, new, [], [])):
        raise FileExistsError(_not_the_same(store, plan.raw, found))
    return summary_of(store, [f"{store.origin} by an earlier version: only the sequences' names could be compared"])


def _frames_now(plan: Plan, sequence: RawSequence, files: Files) -> bytes:
    """What a store would hold of these files."""
    chunk = Chunk(0, (sequence,), plan.settings, partial_folder(plan.out), plan.raw, strict=False)
    return b"".join(prepare_sequence(sequence, files, chunk, Outcome("")))


def _frames_then(store: Store, name: Name) -> bytes:
    """What a store holds of a sequence, nothing where it was dropped."""
    rows = (store.subjects == name[0]) & (store.conditions == name[1]) & (store.views == name[2])
    return b"".join(
        store.frames[start : start + length].tobytes()
        for start, length in zip(store.starts[rows], store.lengths[rows], strict=True)
    )


def _not_the_same(store: Store, raw: str, what: str) -> str:
    return (
        f"{store.path} was {store.origin}, and {shown(raw)} is not the same: {what}. Delete {store.path} to prepare it "
        "again, or give another one with dataset.store=PATH; to use it as it is, there is nothing to prepare"
    )


def _brief(value: Any) -> str:
    if not isinstance(value, list):
        return str(value)
    return f"{len(value)} ({', '.join(value[:2])}, …, {value[-1]})" if len(value) > 3 else ", ".join(value)
