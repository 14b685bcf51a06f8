"""Train a configured run, or go on with it: `python -m cstl.train dataset=casiab res=128`."""

from cstl.running.command import command

main = command("train")

if __name__ == "__main__":
    main()
