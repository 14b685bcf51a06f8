"""Raw tree → store, in chunks of sequences that finish, and are redone, one by one.

    plan = plan_preparation(raw, out, …)      what belongs to which chunk: the same in every process
    prepare_chunk(plan.chunk(k))              for every k, in any order, process or machine that sees the disk
    join(plan, [outcomes])                    one store of all chunks, moved to its place as the last step

`prepare` does the three on one machine. `prepare_shard` does the middle one for its share of the chunks, in as many
jobs as there are shards, and `prepare` then joins. What is unfinished lies in `OUT.partial`. Nothing is locked, since
the file systems of clusters lock badly: every file appears whole and under a name that says what it is made of, so that
the worst that comes of two jobs with the same work is the work done twice.
"""

import errno
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

from cstl.data.frames import Files, list_files
from cstl.data.protocol import Protocol, as_protocol
from cstl.data.store import partial_folder
from cstl.files import read_json, replacing
from cstl.preparation.chunks import finished, listed, prepare_chunk
from cstl.preparation.existing import compared, existing
from cstl.preparation.inspection import merge, refuse_nonsense, remarks
from cstl.preparation.join import Summary, count_dropped, join
from cstl.preparation.layouts import AUTO, spread
from cstl.preparation.plan import Chunk, Plan, plan_preparation, some, store_settings
from cstl.preparation.sources import Source, source_of
from cstl.progress import Steps
from cstl.workers import available_cores, worker_pool

SHARDS = 64  # jobs that share a preparation, unless told otherwise
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def prepare(
    raw: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    dataset: str,
    protocol: Protocol | Mapping[str, Any],
    res: int,
    layout: str = AUTO,
    upsample: bool = False,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
    typed: str | None = None,
    options: Mapping[str, Any] | None = None,
    subset: bool = False,
) -> Summary:
    """Align every frame of a raw tree and write a store; interrupted and called again, it goes on.

    Silhouettes that are aligned already (64x64, 64x44, 128x128 or 128x88 in the whole tree) are only brought to the
    store's size. Where `prepare_shard` has been at work, nothing is aligned here: the shards are joined, or those that
    are missing are named.

    Args:
        raw: folder of the raw tree.
        out: folder of the store. `OUT.partial` holds what is not finished; it needs the store's size twice.
        dataset: name of the data set.
        protocol: its subjects, conditions and views; sequences of others are left out.
        res: 64 (frames of 64x44) or 128 (128x88).
        layout: how the raw tree is laid out, see `cstl.preparation.layouts.LAYOUTS`; "auto": as its folders say.
        upsample: allow 128x88 frames to be made of silhouettes that were aligned to 64 rows.
        workers: processes; all cores when None, none but this one when 0 or 1.
        strict: stop at the first file or folder that cannot be used, instead of leaving it out.
        progress: show a progress bar, where standard error is a terminal.
        typed: what the user types after `python -m cstl.prepare` to prepare this store, for messages.
        options: more that decides which frames are kept, see `cstl.preparation.plan.OPTIONS`.
        subset: allow most sequences of the raw tree to be unknown to the protocol.

    Returns:
        What was kept and dropped. `dropped.csv` in the store names every dropped frame and sequence,
        `short_sequences.csv` every sequence with fewer than 15 usable frames. A store that is there already is compared
        with the raw tree.

    Raises:
        FileNotFoundError, NotADirectoryError: no raw folder there; shards that are missing.
        ValueError: a raw tree that is empty or of another layout, that mixes raw and aligned silhouettes, has a
            sequence twice, or of which the protocol knows nothing; an unknown resolution, or one that needs
            `upsample`; a damaged store at `out`; with `strict`, a file that cannot be used.
        FileExistsError: a store that was made with other settings or of other files, or a folder that is no store, lies
            at `out`.
        OSError: the disk is full; the finished chunks stay, and the next call goes on.
    """
    settings = store_settings(dataset, as_protocol(protocol), res, options)
    arguments: dict[str, Any] = {"dataset": dataset, "protocol": protocol, "res": res, "layout": layout}
    arguments["upsample"] = upsample
    arguments |= {"strict": strict, "options": options, "subset": subset}
    if there := existing(Path(out), settings, strict):
        return compared(there, raw, arguments, progress=progress)
    plan = plan_preparation(raw, out, **arguments)
    refuse_nonsense(plan.raw, plan.sequences, plan.settings)
    try:
        if (shards := _sharding(plan)) is None:
            return join(plan, _run(plan, range(plan.chunks), workers, progress))
        for find, what in ((unfinished, "not finished"), (_outdated, "made of files that changed since")):
            if missing := sorted({number % shards for number in find(plan)}):
                raise FileNotFoundError(_missing_shards(plan, missing, shards, typed or _typed(plan), what))
        return join(plan)
    except OSError as error:
        if there := existing(plan.out, settings, strict):
            # another process joined meanwhile, and took OUT.partial away
            return compared(there, raw, arguments, progress=progress)
        if error.errno not in _FULL:
            raise
        raise OSError(error.errno, _disk_full(plan, error)) from error


def prepare_shard(
    raw: str | os.PathLike[str] | None,
    out: str | os.PathLike[str],
    *,
    shard: int,
    shards: int = SHARDS,
    dataset: str,
    protocol: Protocol | Mapping[str, Any],
    res: int,
    layout: str = AUTO,
    upsample: bool = False,
    workers: int | None = None,
    strict: bool = False,
    progress: bool = True,
    typed: str | None = None,
    options: Mapping[str, Any] | None = None,
    subset: bool = False,
) -> Summary:
    """Align the frames of one share of a raw tree, in one of `shards` jobs; `prepare` joins them when all are done.

    Shard k has the chunks k, k + shards, k + 2·shards, …; a shard that was interrupted goes on when it is called again.

    Args:
        shard: 0 … shards − 1.
        shards: into how many jobs the preparation is cut; the same in all of them.
        raw, out, dataset, protocol, res, layout, upsample, workers, strict, progress, typed, options, subset: as for
            `prepare`.

    Returns:
        What was kept and dropped of this share; of the whole store, where that is there already.

    Raises:
        ValueError: a shard that is not among the shards.
        FileNotFoundError, NotADirectoryError, ValueError, FileExistsError, OSError: as for `prepare`.
    """
    if not (isinstance(shard, int) and isinstance(shards, int) and 0 <= shard < shards):
        many = max(shard + 1, 1) if isinstance(shard, int) else SHARDS
        raise ValueError(
            f"shard={shard} of shards={shards}: expected 0 … shards − 1. Give the number of jobs in both keys, "
            f"for {many} of them: shards={many} shard='range(0,{many})'"
        )
    settings = store_settings(dataset, as_protocol(protocol), res, options)
    arguments: dict[str, Any] = {"dataset": dataset, "protocol": protocol, "res": res, "layout": layout}
    arguments["upsample"] = upsample
    arguments |= {"strict": strict, "options": options, "subset": subset}
    if there := existing(Path(out), settings, strict):
        return compared(there, raw, arguments, shard, shards, progress=progress)
    plan = plan_preparation(raw, out, **arguments)
    refuse_nonsense(plan.raw, plan.sequences, plan.settings)
    numbers = range(shard, plan.chunks, shards)
    try:
        partial_folder(plan.out).mkdir(parents=True, exist_ok=True)
        with replacing(_sharding_path(plan)) as file:
            file.write(json.dumps({"shards": shards}).encode())
        _run(plan, numbers, workers, progress)
        outcomes = [finished(plan.chunk(number)) for number in numbers]
    except OSError as error:
        if there := existing(plan.out, settings, strict):
            return compared(there, raw, arguments, shard, shards, progress=progress)
        if error.errno not in _FULL:
            raise
        raise OSError(error.errno, _disk_full(plan, error)) from error
    if there := existing(plan.out, settings, strict):
        return compared(there, raw, arguments, shard, shards, progress=progress)  # all was there, and joined meanwhile
    done = [outcome for outcome in outcomes if outcome is not None]
    count = count_dropped([row for outcome in done for row in outcome.dropped], done)
    return Summary(
        store=partial_folder(plan.out),
        sequences=sum(len(outcome.kept) for outcome in done),
        frames=sum(length for outcome in done for *_, length in outcome.kept),
        dropped_frames=count["frame"],
        dropped_sequences=count["sequence"],
        short=sum(len(outcome.short) for outcome in done),
        examples=[path for outcome in done for path in outcome.faulty][:5],
        notes=[
            *remarks(merge(outcome.seen for outcome in done)),
            f"{len(numbers):,} of the {plan.chunks:,} chunks; when all shards are done, join them with:",
            f"  python -m cstl.prepare {typed or _typed(plan)}",
        ],
        part=f"shard {shard} (0 … {shards - 1})",
    )


def unfinished(plan: Plan) -> list[int]:
    """The numbers of the chunks that are not finished."""
    return [number for number in range(plan.chunks) if finished(plan.chunk(number)) is None]


def _outdated(plan: Plan) -> list[int]:
    """The numbers of the finished chunks whose raw files have changed since."""
    changed = []
    for chunk in map(plan.chunk, range(plan.chunks)):
        now = [source_of(*pair) for pair in zip(chunk.sequences, listed(chunk), strict=True)]
        if (outcome := finished(chunk)) is None or [Source(*source) for source in outcome.sources] != now:
            changed.append(chunk.number)
    return changed


def _sharding_path(plan: Plan) -> Path:
    return partial_folder(plan.out) / "shards.json"


def _sharding(plan: Plan) -> int | None:
    """Into how many jobs the preparation was cut; None where it was not."""
    try:
        return int(read_json(_sharding_path(plan))["shards"])
    except FileNotFoundError:
        return None


def _missing_shards(plan: Plan, missing: list[int], shards: int, typed: str, what: str) -> str:
    """Which shards are missing, and what to type."""
    first, last = missing[0], missing[-1]
    several = len(missing) > 1 and len(missing) == last - first + 1
    chosen = f"'range({first},{last + 1})'" if several else ",".join(map(str, missing))
    command = "python -m cstl.prepare"
    return (
        f"{plan.out} is prepared in {shards} shards, of which {len(missing)} are {what}: "
        f"{some([str(shard) for shard in missing], 20)}. Prepare what is missing with\n"
        f"  {command} -m {typed} hydra/launcher=submitit_slurm shards={shards} shard={chosen}\n"
        f"or here, in one job, with\n  {command} {typed} shards=1 shard=0\nand join then with\n  {command} {typed}"
    )


def _typed(plan: Plan) -> str:
    return f"dataset={plan.settings['dataset']} res={plan.settings['height']} dataset.raw=PATH"


def _run(plan: Plan, numbers: Sequence[int], workers: int | None, progress: bool) -> dict[int, str]:
    """Prepare the chunks of these numbers, in `workers` processes → what each is made of."""
    digests = {}
    workers = available_cores() if workers is None else workers
    chunks = [plan.chunk(number) for number in numbers]
    with Steps("sequences", progress) as bar:
        about = f"preparing {plan.settings['dataset']} {plan.settings['height']}"
        task = bar.add_task(about, total=sum(len(chunk.sequences) for chunk in chunks))
        for chunk, digest in _prepared(chunks, min(workers, len(chunks))):
            digests[chunk.number] = digest
            bar.advance(task, len(chunk.sequences))
    return digests


def _prepared(chunks: list[Chunk], workers: int) -> Iterator[tuple[Chunk, str]]:
    """Prepare chunks, yield each with its digest as it is finished."""
    if workers <= 1:
        for chunk in chunks:
            yield chunk, prepare_chunk(chunk)
        return
    with worker_pool(workers) as pool:
        futures = {pool.submit(prepare_chunk, chunk): chunk for chunk in chunks}
        for future in as_completed(futures):
            yield futures[future], future.result()


def _disk_full(plan: Plan, error: OSError) -> str:
    sample = spread(plan.sequences, 200)
    listed = (list_files(sequence.folder, plan.settings["files"]) for sequence in sample)
    count = sum(_count_frames(files, plan.settings) for files in listed)
    size = count / len(sample) * len(plan.sequences) * plan.settings["height"] * plan.settings["width"]
    return (
        f"the disk of {plan.out.parent} is full ({error.strerror}): the store needs about {_size(2 * size)} "
        f"there while it is made and half of that afterwards; make room or give dataset.store=PATH. What is finished "
        f"stays in {partial_folder(plan.out)}, and the same command goes on from it"
    )


def _count_frames(files: Files, settings: Mapping[str, Any]) -> float:
    """Frames of a sequence, without reading them."""
    if not files.pickles:
        return len(files.pictures)
    height, width = settings["source"]
    return os.path.getsize(files.pickles[0]) / (height * width)


def _size(count: float) -> str:
    return f"{count / 1e9:,.1f} GB" if count >= 1e9 else f"{count / 1e6:,.1f} MB"
