"""What there is: `python -m cstl` lists the commands, each with a line and an example; `cstl NAME` runs one."""

import os
import runpy
import sys
from difflib import get_close_matches

from cstl import __version__
from cstl.running.streams import never_fail

COMMANDS = {  # name → what it does, an example
    "train": ("trains a run, or goes on with it, and evaluates its model", "experiment=demo"),
    "evaluate": ("the paper's table from a checkpoint", "checkpoint=runs/NAME/checkpoints/step-0000200.ckpt"),
    "report": ("one HTML page of a run, or of several side by side", "runs/NAME"),
    "compare": ("a leaderboard of runs, with intervals over the test subjects", "runs/SWEEP"),
    "prepare": ("raw silhouettes → store", "dataset=casiab res=128 dataset.raw=PATH"),
    "check": ("is a store what it should be? counts, odd sequences, pictures", "dataset=casiab res=128"),
    "synthesize": ("draws synthetic walkers, a benchmark without a licence", "dataset=synthetic_large"),
    "export_official": ("a checkpoint's weights for the authors' code", "checkpoint=PATH"),
}


def overview() -> str:
    """The text, at most 80 columns wide."""
    lines = [
        "cstl: recognising people by their gait across camera views",
        "",
        "New here? This needs no data and some minutes:",
        "",
        "    python -m cstl.train experiment=demo",
        "",
        "Commands; each tells more with --help:",
    ]
    for name, (what, example) in COMMANDS.items():
        lines += ["", f"  {name:<15}  {what}", f"    python -m cstl.{name} {example}"]
    return "\n".join(lines)


def main() -> None:
    """Runs the command that the first word names, as `python -m cstl.NAME` does; without one prints the overview."""
    never_fail()
    asked = sys.argv[1:]
    if not asked or asked[0] in ("-h", "--help", "help"):
        print(overview())
    elif asked[0] in ("-V", "--version", "version"):
        print(f"cstl {__version__}")
    elif (name := asked[0].removeprefix("cstl.").replace("-", "_")) in COMMANDS:
        sys.argv[1:] = asked[1:]
        if os.getcwd() not in sys.path:  # `python -m` looks here for a network of the user's, `cstl` does not
            sys.path.append(os.getcwd())
        runpy.run_module(f"cstl.{name}", run_name="__main__", alter_sys=True)
    else:
        likely = get_close_matches(name, COMMANDS, n=1)
        meant = f"; did you mean {likely[0]}?" if likely else ";"
        listed = f"{meant} The commands are {', '.join(COMMANDS)}. What they do: python -m cstl"
        sys.exit(f"error: there is no command {asked[0]!r}{listed}")


if __name__ == "__main__":
    main()
