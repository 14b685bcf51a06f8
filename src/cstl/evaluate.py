"""Evaluate a checkpoint: `python -m cstl.evaluate checkpoint=PATH`."""

from cstl.running.command import command

main = command("evaluate")

if __name__ == "__main__":
    main()
