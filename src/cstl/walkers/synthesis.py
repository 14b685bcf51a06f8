"""Synthetic walkers: a gait benchmark that needs no licence, in CASIA-B's raw layout.

A walker is a kinematic skeleton whose joint angles are periodic
(low-order Fourier series through the mean curves of normal gait), dressed in solids
(convex hulls of ellipsoids), seen by eleven perspective cameras and corrupted as background subtraction
corrupts silhouettes. A sequence's way: `draw_walk` (traits) → `skeleton` → `dress` → `embody` (body) →
`outlines` → `silhouettes` → `degrade` (camera).
"""

import errno
import json
import os
import shutil
import zlib
from collections.abc import Mapping, Sequence
from concurrent.futures import as_completed
from pathlib import Path
from typing import Any

import cv2

from cstl.files import read_json, write_text
from cstl.owner import owner
from cstl.progress import Steps
from cstl.walkers import camera, traits
from cstl.walkers.body import FPS, Body, embody
from cstl.walkers.camera import Frames, outlines, silhouettes
from cstl.walkers.traits import draw_walk, named_rng
from cstl.workers import available_cores, worker_pool

VIEWS = tuple(f"{angle:03d}" for angle in range(0, 181, 18))
CONDITIONS = (*(f"nm-{i:02d}" for i in range(1, 7)), "bg-01", "bg-02", "cl-01", "cl-02")


def render_sequence(
    seed: int, subject: str, condition: str, view: str, frames: int = 30, *, noise: bool = True
) -> Frames:
    """Render one sequence.

    Args:
        seed: of the whole benchmark, 0 or more.
        subject: any name; each names another person.
        condition: nm-… (normal), bg-… (bag) or cl-… (coat). Another number is another walk of the same
            person.
        view: degrees from the walking direction to the camera, "000" (coming) … "180" (going).
        frames: mean number of frames of a sequence, at 25 a second.
        noise: corrupt the silhouettes as background subtraction does.

    Returns:
        uint8 (T, 240, 320), values 0 and 255. It depends on the arguments alone; the views of one walk show
        the same moments.

    Raises:
        ValueError: a condition or view of another form.
    """
    body = embody(draw_walk(seed, subject, condition, frames))
    return view_sequence(body, seed, subject, condition, view, noise=noise)


def view_sequence(
    body: Body, seed: int, subject: str, condition: str, view: str, *, noise: bool = True
) -> Frames:
    """Render what one view's camera sees of a walk: uint8 (T, 240, 320)."""
    rng = named_rng(seed, "camera", subject, condition, view) if noise else None
    return silhouettes(outlines(body, view), rng)


PNG = (
    cv2.IMWRITE_PNG_STRATEGY,
    cv2.IMWRITE_PNG_STRATEGY_RLE,
    cv2.IMWRITE_PNG_FILTER,
    cv2.IMWRITE_PNG_FILTER_NONE,
)
MARKER = "walkers.json"
PART = ".part"


def write_walk(out: Path, seed: int, subject: str, condition: str, views: Sequence[str], frames: int) -> int:
    """Write the sequences of one walk that are not there yet, each atomically → how many."""
    folder = out / subject / condition
    missing = [view for view in views if not (folder / view).is_dir()]
    if not missing:
        return 0
    body = embody(draw_walk(seed, subject, condition, frames))
    folder.mkdir(parents=True, exist_ok=True)
    for view in missing:
        name = f"{subject}-{condition}-{view}"
        part = out / PART / name
        part.mkdir(parents=True)
        for i, frame in enumerate(view_sequence(body, seed, subject, condition, view), start=1):
            (part / f"{name}-{i:03d}.png").write_bytes(cv2.imencode(".png", frame, PNG)[1].tobytes())
        part.rename(folder / view)
    return len(missing)


def synthesize(
    out: Path | str,
    *,
    subjects: int | Sequence[str] = 46,
    seed: int = 0,
    views: Sequence[str] = VIEWS,
    conditions: Sequence[str] = CONDITIONS,
    frames: int = 30,
    workers: int | None = None,
    progress: bool = True,
) -> None:
    """Write synthetic walkers as a raw tree in CASIA-B's layout.

    `out/001/nm-01/000/001-nm-01-000-001.png`: 320×240, 8-bit grey, 0 or 255. Interrupted and called again, it
    goes on; `out/walkers.json` is written last, so a tree that has it is complete, and then nothing is done.

    Args:
        out: folder of the tree; new, empty, or an earlier call's with the same settings.
        subjects: how many ("001", "002", …), or their names. A subject does not depend on the others.
        seed: 0 or more. Together with the names it decides every pixel.
        views: angles in degrees, three digits.
        conditions: nm-…, bg-… or cl-….
        frames: mean number of frames of a sequence, at 25 a second. From some 65 on, walkers enter and leave
            the side views.
        workers: processes; by default one for each core. The files do not depend on it.
        progress: show a bar, or lines where the output is no terminal.

    Raises:
        ValueError: settings that cannot be drawn.
        FileExistsError: `out` holds something else, or walkers made with other settings.
        InUseError: another process makes them at this moment.
        OSError: the disk is full.
    """
    out = Path(out)
    names = [f"{i:03d}" for i in range(1, subjects + 1)] if isinstance(subjects, int) else list(subjects)
    settings = {
        "subjects": names,
        "seed": seed,
        "views": list(views),
        "conditions": list(conditions),
        "frames": frames,
        "renderer": renderer(),
    }
    check(settings)
    if is_complete(out, settings):
        return
    (out / PART).mkdir(parents=True, exist_ok=True)
    try:
        with owner(out / PART):  # two at once would take each other's unfinished sequences away
            if not is_complete(out, settings):  # made meanwhile
                claim(out, settings)
                write_walks(out, seed, names, conditions, views, frames, workers, progress)
                (out / PART / MARKER).replace(out / MARKER)
    except FileNotFoundError:
        if not is_complete(out, settings):  # else another process was done, and took the folder away
            raise
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise OSError(
            error.errno,
            f"the disk of {out} is full ({os.strerror(error.errno)}): make room, or name another folder with "
            "dataset.raw=PATH. What is drawn is kept, and the same command goes on",
        ) from error
    shutil.rmtree(out / PART, ignore_errors=True)


def write_walks(
    out: Path,
    seed: int,
    subjects: Sequence[str],
    conditions: Sequence[str],
    views: Sequence[str],
    frames: int,
    workers: int | None,
    progress: bool,
) -> None:
    """Write the walks of all subjects, each a job of its own."""
    walks = [(subject, condition) for subject in subjects for condition in conditions]
    workers = workers if workers is not None else available_cores()
    with Steps("walks", progress) as bar:
        task = bar.add_task("Synthetic walkers", total=len(walks))
        if workers <= 1:
            threads = cv2.getNumThreads()
            cv2.setNumThreads(1)
            for subject, condition in walks:
                write_walk(out, seed, subject, condition, views, frames)
                bar.advance(task)
            cv2.setNumThreads(threads)
        else:
            with worker_pool(workers) as pool:
                jobs = [pool.submit(write_walk, out, seed, *walk, views, frames) for walk in walks]
                for job in as_completed(jobs):
                    job.result()
                    bar.advance(task)


def renderer() -> str:
    """Return a digest of the tables, so that walkers drawn from other tables are not taken for the same."""
    t, c = traits, camera
    tables: list[object] = [t.TRAITS, t.PATH, t.COAT, t.BAG, t.BAGS, c.NOISE, t.CURVES, t.HARMONICS, FPS]
    tables += [t.BETWEEN, t.WITHIN, t.COAT_WITHIN, t.COAT_ARM_SWING]
    tables += [c.DISTANCE, c.CAMERA_HEIGHT, c.AIM_HEIGHT, c.FOCAL]
    return f"1-{zlib.crc32(repr(tables).encode()):08x}"


def check(settings: Mapping[str, Any]) -> None:
    """Refuse settings that cannot be drawn, before anything is written."""
    for key in ("subjects", "views", "conditions"):
        values = settings[key]
        if not values or len(set(values)) != len(values):
            raise ValueError(f"Synthetic walkers: expected {key} that are given and differ, found {values}.")
    if settings["seed"] < 0:
        raise ValueError(f"Synthetic walkers: expected a seed of 0 or more, found {settings['seed']}.")
    if settings["frames"] < 1:
        raise ValueError(
            f"Synthetic walkers: expected at least 1 frame a sequence, found {settings['frames']}."
        )
    for view in settings["views"]:
        camera.camera(view)
    for condition in settings["conditions"]:
        draw_walk(0, "", condition, 1)


def is_complete(out: Path, settings: Mapping[str, Any]) -> bool:
    """Say whether the walkers of these settings are all there; refuses a folder that holds anything else."""
    made = next((file for file in (out / MARKER, out / PART / MARKER) if file.is_file()), None)
    if made is None:
        if out.is_dir() and any(path.name != PART for path in out.iterdir()):
            raise FileExistsError(
                f"{out} holds files but no {MARKER}, so synthetic walkers did not come from here. Name a "
                "new folder."
            )
        return False
    there = read_json(made)
    if there != settings:
        differing = [
            f"{key} {there.get(key)} there, {settings.get(key)} asked for"
            for key in {**settings, **there}
            if there.get(key) != settings.get(key)
        ]
        raise FileExistsError(
            f"{out} holds synthetic walkers of other settings: {'; '.join(differing)}. "
            "Ask for the same settings, name another folder, or delete this one."
        )
    return made == out / MARKER


def claim(out: Path, settings: Mapping[str, Any]) -> None:
    """Prepare `out` to be (further) filled, by the one process that does so.

    While a tree grows, its settings and its unfinished sequences lie in `.part`.
    """
    write_text(out / PART / MARKER, json.dumps(settings, indent=1))
    for path in (out / PART).iterdir():
        if path.is_dir():
            shutil.rmtree(path)
