"""Draws docs/images/walkers.png from the walkers themselves: what the network is given, by view and by
condition.

python scripts/draw_walkers.py
"""

from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from cstl.data import align_silhouette
from cstl.walkers.synthesis import render_sequence

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "images" / "walkers.png"
VIEWS = ("000", "036", "072", "090", "126", "180")
ROWS = (
    ("001", "nm-01", "normal"),
    ("001", "bg-01", "with a bag"),
    ("001", "cl-01", "in a coat"),
    ("002", "nm-01", "another one"),
)
MOMENTS = (4, 7)  # frames of each sequence


def main() -> None:
    """Writes the picture."""
    figure = Figure(figsize=(8, 4.3), layout="constrained")
    every = figure.subplots(len(ROWS), len(VIEWS))
    for row, (subject, condition, name) in enumerate(ROWS):
        for column, view in enumerate(VIEWS):
            frames = render_sequence(0, subject, condition, view, 24)
            aligned = [align_silhouette(frame, 64) for frame in frames]
            shown = [image[:, 10:54] for image in aligned if image is not None]
            axes = every[row, column]
            axes.imshow(
                np.hstack([shown[t % len(shown)] for t in MOMENTS]), cmap="gray", interpolation="nearest"
            )
            axes.set_xticks([])
            axes.set_yticks([])
            if row == 0:
                axes.set_title(f"{view}°", fontsize=10)
            if column == 0:
                axes.set_ylabel(name, fontsize=10)
    PICTURE.parent.mkdir(exist_ok=True)
    figure.savefig(PICTURE, dpi=100, pil_kwargs={"optimize": True})
    print(f"written: {PICTURE.name}, {PICTURE.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
