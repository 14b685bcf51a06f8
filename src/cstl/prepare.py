"""Prepare a store from raw frames: `python -m cstl.prepare dataset=casiab res=128 dataset.raw=PATH`."""

from cstl.running.command import command

main = command("prepare")

if __name__ == "__main__":
    main()
