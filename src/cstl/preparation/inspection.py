"""What is odd about raw masks and their names: a sample is looked at, counted, and said with what to type."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from cstl.data.alignment import clean_mask, is_cut
from cstl.data.frames import list_files, name_patterns, read_frames, reading_of_points
from cstl.data.store import Store
from cstl.files import shown
from cstl.preparation.layouts import AUTO, LAYOUTS, RawSequence, list_sequences, spread

FRAMES, SEQUENCES = "frames", "sequences"  # how many were looked at
EVERY = 4  # one sequence of so many, and the first of every subject, is looked at while a store is prepared
SAMPLE, EACH = 16, 3  # sequences that are looked at before, and frames of each
LEAST = 0.01  # of the frames: what is rarer is not worth a line
DARK = 64  # values of a body below are labels, not grey

# kind → what is said, and what to type. {levels} are the grey values that were met.
FINDINGS = {
    "grey": (
        "background not black (grey levels {levels}): nothing can be cropped, every body keeps another scale",
        "type dataset.threshold=128",
    ),
    "haze": (
        "grey levels {levels} above or below the body decide where it is cropped",
        "dataset.threshold=128 takes them away",
    ),
    "dark": (
        "bodies of the values {levels}, as labels have them, are next to black",
        "type dataset.threshold=1",
    ),
    "dim": (
        "bodies of the values {levels}, not 255",
        "where others are to be compared with them, make them white with dataset.threshold=1",
    ),
    "inverted": (
        "black bodies on white",
        "invert the pictures (ImageMagick: mogrify -negate FILES) and prepare from those",
    ),
    "specks": (
        "specks away from the body decide where it is cropped",
        (
            "dataset.clean=largest keeps the largest patch of each (and loses a head that is not joined to "
            "its body)"
        ),
    ),
    "second": (
        "a second large patch, as of two people or a body in pieces",
        "dataset.clean=largest keeps the larger one",
    ),
    "cut": (
        "bodies that the picture's border cuts, as where somebody walks in or out",
        "dataset.drop_cut=true leaves them out",
    ),
    "wide": (
        "bodies wider than tall, as in pictures that lie on their side",
        "look at some, and rotate them if need be",
    ),
    "unaligned": (
        "taken for aligned by their size, but the body does not fill the height or is not in the middle",
        (
            "type dataset.aligned=false to have them aligned here, or dataset.aligned=true if they are as "
            "they should be"
        ),
    ),
    "sides": (
        (
            "taken for aligned by their size, but the body touches both sides: stretched, or cut out of a "
            "larger picture"
        ),
        "prepare from the raw masks; type dataset.aligned=false to have them aligned here, or "
        "dataset.aligned=true if they are as they should be",
    ),
    "patterns": (
        "files named in several ways, all of them read as frames of one sequence",
        "choose one with dataset.files=PATTERN",
    ),
    "decimals": (
        "numbers with decimals, read as 0.04 < 0.1 < 0.12 and not as counters 0.1 < 0.4 < 0.12",
        "rename the files 0001.png, 0002.png, … if that is wrong",
    ),
    "counters": (
        "numbers with a point, read as counters 1.9 < 1.10 and not as decimals",
        "rename the files 0001.png, 0002.png, … if that is wrong",
    ),
    "repeated": (
        "frames that equal the one before them (copied files, or a video at another rate)",
        "look at some, and remove the copies",
    ),
}
OF_NAMES = ("patterns", "decimals", "counters")  # counted in sequences, all others in frames
NONSENSE = ("grey", "dark", "inverted")  # refused where most frames are, unless a threshold is given
NOT_ALIGNED = ("unaligned", "sides")  # likewise, unless dataset.aligned is

# Kind → how often, the first example, the least and the most of the grey values. Plain, so that JSON can hold
# it.
Seen = dict[str, list[Any]]


def note(seen: Seen, kind: str, example: str = "", levels: tuple[int, int] = (0, 0), count: int = 1) -> None:
    """Count what was seen once more."""
    before, first, low, high = seen.get(kind, [0, example, *levels])
    seen[kind] = [before + count, first, min(low, levels[0]), max(high, levels[1])]


def merge(parts: Iterable[Seen]) -> Seen:
    """Return the counts of all parts."""
    whole: Seen = {}
    for part in parts:
        for kind, (count, example, low, high) in part.items():
            note(whole, kind, example, (low, high), count)
    return whole


def look_at_frame(seen: Seen, path: str, image: np.ndarray, settings: Mapping[str, Any]) -> None:
    """Count what is odd about a frame, after the settings' threshold and cleaning."""
    note(seen, FRAMES)
    for kind, levels in oddities(
        clean_mask(image, settings["threshold"], settings["clean"]), settings["source"] is not None
    ):
        note(seen, kind, path, levels)


def look_at_names(seen: Seen, pictures: Sequence[str], example: str) -> None:
    """Count what is odd about the names of a sequence's pictures; `example` is what the first is called."""
    note(seen, SEQUENCES)
    patterns = name_patterns(pictures)
    if len(patterns) > 1:
        note(seen, "patterns", shown(" beside ".join(patterns[:2]), 4096))
    elif kind := reading_of_points(pictures):
        note(seen, kind, example)


def oddities(mask: np.ndarray, aligned: bool) -> Iterator[tuple[str, tuple[int, int]]]:
    """Say what is odd about a mask, uint8 (H, W), and the grey values that show it."""
    height, width = mask.shape
    top = int(mask.max())
    if not top:
        return  # no person, and counted as that
    if top < 250:
        yield ("dark" if top < DARK else "dim"), (top, top)
    bright = cv2.threshold(mask, top // 2, 255, cv2.THRESH_BINARY)[1]
    share, border = cv2.countNonZero(bright) / mask.size, [bright[0], bright[-1], bright[:, 0], bright[:, -1]]
    if share > 0.5 and np.concatenate(border).mean() > 255 / 2:
        yield "inverted", (top, top)
        return
    _, upper, _, rows = cv2.boundingRect(mask)  # of all that is not black
    left, first, across, down = cv2.boundingRect(bright)
    part = bright[first : first + down, left : left + across]
    _, _, stats, _ = cv2.connectedComponentsWithStats(part, connectivity=8)
    areas = stats[1:, cv2.CC_STAT_AREA]
    _, begin, wide, tall, area = (int(value) for value in stats[1 + int(areas.argmax())])
    slack = max(2, tall // 20)
    filled = cv2.countNonZero(mask) / mask.size > 0.95 > 0.7 > share
    if filled or upper < first - slack or upper + rows > first + down + slack:
        faint = mask[(mask > 0) & (bright == 0)]
        everywhere = filled or (rows == height and down < height - 2 * slack)
        yield ("grey" if everywhere else "haze"), (int(faint.min()), int(faint.max()))
    if begin > slack or begin + tall < down - slack:
        yield "specks", (top, top)
    if 4 * int(np.sort(areas)[-2:-1].sum()) >= area:
        yield "second", (top, top)
    if not aligned:
        if is_cut(mask):
            yield "cut", (top, top)
        elif wide > 1.3 * tall:
            yield "wide", (top, top)
        return
    mass = np.count_nonzero(bright, axis=0).cumsum()
    middle = int(mass.searchsorted(mass[-1] / 2, side="right"))
    if down < height * 7 / 8 or abs(middle - width / 2) > width / 8:
        yield "unaligned", (top, top)
    elif across == width:
        yield "sides", (top, top)


def inspect_sequences(
    sequences: Sequence[RawSequence], settings: Mapping[str, Any]
) -> tuple[Seen, Counter[str]]:
    """Look at a few frames of some sequences; also why frames could not be read."""
    seen: Seen = {}
    unread: Counter[str] = Counter()
    suffix = LAYOUTS[settings["layout"]].suffix
    for sequence in spread(sequences, SAMPLE):
        files = list_files(sequence.folder, settings["files"])
        look_at_names(seen, files.pictures, "".join(files.pictures[:1]))
        files = files._replace(pictures=list(spread(files.pictures, EACH)), faults=[])
        for path, image in read_frames(sequence.folder, files, suffix, bool(settings["threshold"])):
            if isinstance(image, str):
                unread[image] += 1
            elif settings["source"] is None or image.shape == tuple(settings["source"]):
                look_at_frame(seen, path, image, settings)
    return seen, unread


def refuse_nonsense(raw: str, sequences: Sequence[RawSequence], settings: Mapping[str, Any]) -> None:
    """Refuse a tree of which most frames would come to nothing, before hours of work: ValueError says what to
    type.

    What the user has said of the masks is not doubted: a threshold, 0 among them, or that they are aligned.
    """
    seen, unread = inspect_sequences(sequences, settings)
    frames = seen.get(FRAMES, [0])[0]
    kinds = [
        *(NONSENSE if settings["threshold"] is None else ()),
        *(NOT_ALIGNED if settings["aligned"] == AUTO else ()),
    ]
    odd = [kind for kind in kinds if 2 * seen.get(kind, [0])[0] > frames]
    if odd:
        lines = "\n".join(f"  {_line(kind, seen)}" for kind in odd)
        known = "dataset.threshold=0" if odd[0] in NONSENSE else "dataset.aligned=true"
        raise ValueError(
            f"{shown(raw)}: most of its frames are no masks that could be used as they are:\n{lines}\n"
            f"({known} takes them as they are.)"
        )
    if unread and not frames and len(unread) == 1:
        [(why, count)] = unread.items()
        raise ValueError(
            f"{shown(raw)}: no sequence is left to store; none of {count} sampled frames can be used: {why}"
        )


def look_at_masks(store: Store) -> list[str]:
    """Say what was seen of a store's masks when it was prepared, or what an older one's raw tree shows."""
    settings = {"files": None, "threshold": None, "clean": "none"} | store.about
    try:
        if "inspection" in settings:
            return remarks(settings["inspection"])
        sequences = list_sequences(settings["raw"], settings["layout"], settings["files"]).sequences
        return remarks(inspect_sequences(sequences, settings)[0])
    except (KeyError, TypeError, ValueError, OSError):
        return []  # there is no raw tree any more


def remarks(seen: Seen) -> list[str]:
    """Return a line for what is odd in more than a few frames: how often, an example, what to type."""
    frames = max(seen.get(FRAMES, [0])[0], 1)
    return [
        _line(kind, seen)
        for kind in FINDINGS
        if kind in seen and (kind in OF_NAMES or seen[kind][0] >= LEAST * frames)
    ]


def _line(kind: str, seen: Seen) -> str:
    text, remedy = FINDINGS[kind]
    of = SEQUENCES if kind in OF_NAMES else FRAMES
    count, example, low, high = seen[kind]
    levels = f"{low} to {high}" if low != high else str(low)
    what = (
        f"{count:,} of {seen.get(of, [count])[0]:,} sampled {of}"
        if kind != "repeated"
        else f"{count:,} frames"
    )
    return f"{text.format(levels=levels)}: {what} ({shown(example, 120)}); {remedy}"
