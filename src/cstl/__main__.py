"""What there is: `python -m cstl` lists the commands, each with a line and an example."""

import sys

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
    """Prints the overview; a command that was asked for in another way is an error with the right way."""
    asked = sys.argv[1:]
    if not asked or asked[0] in ("-h", "--help", "help"):
        print(overview())
        return
    if asked[0] in COMMANDS:
        sys.exit(f"error: commands are modules, type: {' '.join(['python -m', f'cstl.{asked[0]}', *asked[1:]])}")
    sys.exit(f"error: there is no command {asked[0]!r}; the commands are {', '.join(COMMANDS)}. See python -m cstl")


if __name__ == "__main__":
    main()
