"""Write a checkpoint for the authors' code: `python -m cstl.export_official checkpoint=PATH`."""

from cstl.running.command import command

main = command("export_official")

if __name__ == "__main__":
    main()
