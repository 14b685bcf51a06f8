"""Make the synthetic walkers: `python -m cstl.synthesize dataset=synthetic`."""

from cstl.running.command import command

main = command("synthesize")

if __name__ == "__main__":
    main()
