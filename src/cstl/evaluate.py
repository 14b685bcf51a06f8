"""Evaluate a checkpoint: `python -m cstl.evaluate checkpoint=PATH`."""

from cstl.command import command

main = command("evaluate")

if __name__ == "__main__":
    main()
