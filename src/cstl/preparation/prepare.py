"""Raw tree → store, in chunks of sequences that finish, and are redone, one by one.

    plan = plan_preparation(Preparation(raw, out, …))   what belongs to which chunk: the same in every process
    prepare_chunk(chunk)                                for every chunk, in any order, process or machine
    join(plan)                                          one store of all chunks, moved to its place as the
    last step

`prepare` does the three on one machine, or with `shard` the middle one for its share of the chunks; without
it joins what all shards have made. What is unfinished lies in `OUT.partial`. Nothing is locked, since the
file systems of clusters lock badly: every file appears whole and under a name that says what it is made of,
so that the worst that comes of two jobs with the same work is the work done twice.
"""

import errno
import json
import math
import os
from collections.abc import Iterator
from concurrent.futures import as_completed
from pathlib import Path

from cstl.data.frames import list_files
from cstl.files import read_json, replacing
from cstl.preparation.chunks import finished, list_chunk, prepare_chunk
from cstl.preparation.existing import compared, existing
from cstl.preparation.inspection import merge, refuse_nonsense, remarks
from cstl.preparation.join import Summary, count, join
from cstl.preparation.layouts import spread
from cstl.preparation.plan import Chunk, Plan, Preparation, plan_preparation, some
from cstl.preparation.sources import Source, source_of
from cstl.progress import Steps
from cstl.workers import available_cores, worker_pool

SHARDS = 64  # jobs that share a preparation, unless there are others
_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def prepare(
    asked: Preparation,
    shard: int | None = None,
    shards: int = SHARDS,
    *,
    workers: int | None = None,
    progress: bool = True,
) -> Summary:
    """Align every frame of a raw tree and write a store; interrupted and called again, it goes on.

    Where shards have been at work, nothing is aligned here: they are joined, or those that are missing are
    named.

    Args:
        asked: which store, of which raw tree, and how.
        shard: 0 … shards − 1: prepare only the chunks k, k + shards, k + 2·shards, … and join nothing.
        shards: into how many jobs the preparation is cut; the same in all of them.
        workers: processes; all cores when None, none but this one when 0 or 1.
        progress: show a progress bar, where standard error is a terminal.

    Returns:
        What was kept and dropped, of a shard's share or of the whole store. `dropped.csv` in the store names
        every dropped frame and sequence, `short_sequences.csv` every sequence with fewer than 15 usable
        frames. A store that is there already is compared with the raw tree.

    Raises:
        FileNotFoundError, NotADirectoryError: no raw folder there; shards that are missing.
        ValueError: a raw tree that is empty or of another layout, that mixes raw and aligned silhouettes, has
            a sequence twice, or of which the protocol knows nothing; a resolution that needs `upsample`; a
            shard that is not among the shards; a damaged store at `out`; with `strict`, a file that cannot be
            used.
        FileExistsError: a store that was made with other settings or of other files, or a folder that is no
            store, lies at `out`.
        OSError: the disk is full; the finished chunks stay, and the next call goes on.
    """
    if shard is not None and not (isinstance(shard, int) and isinstance(shards, int) and 0 <= shard < shards):
        many = max(shard + 1, 1) if isinstance(shard, int) else SHARDS
        raise ValueError(
            f"shard={shard} of shards={shards}: expected 0 … shards − 1. Give the number of jobs in both "
            f"keys, for {many} of them: shards={many} shard='range(0,{many})'"
        )
    mine = slice(None) if shard is None else slice(shard, None, shards)  # of the chunks
    if store := existing(asked):
        return compared(store, asked, mine, progress)
    plan = plan_preparation(asked)
    refuse_nonsense(plan.raw, plan.sequences, plan.settings)
    try:
        if shard is not None:
            summary = _prepare_share(plan, shard, shards, workers, progress)
        elif (jobs := _jobs(plan)) is not None:
            summary = _join_shards(plan, jobs)
        else:
            summary = join(plan, _run(plan, plan.chunks, workers, progress))
    except OSError as error:
        if store := existing(asked):  # another process joined meanwhile, and took OUT.partial away
            return compared(store, asked, mine, progress)
        if error.errno not in _FULL:
            raise
        raise OSError(error.errno, _disk_full(plan, error)) from error
    if shard is not None and (store := existing(asked)):  # all was there, and joined meanwhile
        return compared(store, asked, mine, progress)
    return summary


def _prepare_share(plan: Plan, shard: int, shards: int, workers: int | None, progress: bool) -> Summary:
    """Prepare every `shards`-th chunk from `shard` on."""
    chunks = plan.chunks[shard::shards]
    plan.partial.mkdir(parents=True, exist_ok=True)
    with replacing(_jobs_path(plan)) as file:
        file.write(json.dumps({"shards": shards}).encode())
    _run(plan, chunks, workers, progress)
    outcomes = [outcome for outcome in map(finished, chunks) if outcome is not None]
    notes = [
        *remarks(merge(outcome.seen for outcome in outcomes)),
        f"{len(chunks):,} of the {len(plan.chunks):,} chunks; when all shards are done, join them with:",
        f"  python -m cstl.prepare {plan.asked.command}",
    ]
    return Summary(plan.partial, **count(outcomes), notes=notes, part=f"shard {shard} (0 … {shards - 1})")


def _join_shards(plan: Plan, shards: int) -> Summary:
    """Join the chunks of all shards; FileNotFoundError with what to type where some are missing."""
    for is_missing, why in (
        (_is_unfinished, "not finished"),
        (_is_outdated, "made of files that changed since"),
    ):
        missing = sorted({chunk.number % shards for chunk in plan.chunks if is_missing(chunk)})
        if not missing:
            continue
        first, last = missing[0], missing[-1]
        several = len(missing) > 1 and len(missing) == last - first + 1
        chosen = f"'range({first},{last + 1})'" if several else ",".join(map(str, missing))
        command, typed = "python -m cstl.prepare", plan.asked.command
        raise FileNotFoundError(
            f"{plan.out} is prepared in {shards} shards, of which {len(missing)} are {why}: "
            f"{some([str(shard) for shard in missing], 20)}. Prepare what is missing with\n"
            f"  {command} -m {typed} hydra/launcher=submitit_slurm shards={shards} shard={chosen}\n"
            f"or here, in one job, with\n  {command} {typed} shards=1 shard=0\nand join then with\n  "
            f"{command} {typed}"
        )
    return join(plan)


def _is_unfinished(chunk: Chunk) -> bool:
    return finished(chunk) is None


def _is_outdated(chunk: Chunk) -> bool:
    """Say whether raw files of a finished chunk have changed since."""
    outcome, now = finished(chunk), [source_of(*pair) for pair in list_chunk(chunk)]
    return outcome is None or [Source(*source) for source in outcome.sources] != now


def _jobs_path(plan: Plan) -> Path:
    return plan.partial / "shards.json"


def _jobs(plan: Plan) -> int | None:
    """Read into how many jobs the preparation was cut; None where it was not."""
    try:
        return int(read_json(_jobs_path(plan))["shards"])
    except FileNotFoundError:
        return None


def _run(plan: Plan, chunks: list[Chunk], workers: int | None, progress: bool) -> dict[int, str]:
    """Prepare chunks in `workers` processes → number → what each is made of."""
    digests = {}
    workers = available_cores() if workers is None else workers
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
    """Say how much room the store needs, by the size of a sample."""
    height, width = plan.settings["height"], plan.settings["width"]
    sample, frames = spread(plan.sequences, 200), 0.0
    for files in (list_files(sequence.folder, plan.settings["files"]) for sequence in sample):
        frames += len(files.pictures)
        if files.pickles:
            frames += os.path.getsize(files.pickles[0]) / math.prod(plan.settings["source"])
    size = 2 * frames / len(sample) * len(plan.sequences) * height * width
    room = f"{size / 1e9:,.1f} GB" if size >= 1e9 else f"{size / 1e6:,.1f} MB"
    return (
        f"the disk of {plan.out.parent} is full ({error.strerror}): the store needs about {room} "
        "there while it is made and half of that afterwards; make room or give dataset.store=PATH. What is "
        f"finished stays in {plan.partial}, and the same command goes on from it"
    )
