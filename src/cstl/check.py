"""Check a prepared store: `python -m cstl.check dataset=casiab res=128`."""

from cstl.running.command import command

main = command("check")

if __name__ == "__main__":
    main()
