"""Lists the commands, each with a line and an example: `python -m cstl`; runs one: `cstl NAME`."""

import os
import runpy
import sys
from difflib import get_close_matches

from cstl import __version__
from cstl.running.help import commands, overview
from cstl.running.streams import never_fail


def main() -> None:
    """Run the command that the first word names, as `python -m cstl.NAME` does; without one list them."""
    never_fail()
    asked = sys.argv[1:]
    if not asked or asked[0] in ("-h", "--help", "help"):
        print(overview())
    elif asked[0] in ("-V", "--version", "version"):
        print(f"cstl {__version__}")
    elif (name := asked[0].removeprefix("cstl.").replace("-", "_")) in commands():
        sys.argv[1:] = asked[1:]
        if os.getcwd() not in sys.path:  # `python -m` looks here for a network of the user's, `cstl` does not
            sys.path.append(os.getcwd())
        runpy.run_module(f"cstl.{name}", run_name="__main__", alter_sys=True)
    else:
        likely = get_close_matches(name, commands(), n=1)
        meant = f"; did you mean {likely[0]}?" if likely else ";"
        listed = f"{meant} The commands are {', '.join(commands())}. What they do: python -m cstl"
        sys.exit(f"error: there is no command {asked[0]!r}{listed}")


if __name__ == "__main__":
    main()
