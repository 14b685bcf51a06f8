"""Outputs that a run cannot fail on, whatever their encoding or reader; options answered in a sentence."""

import argparse
import codecs
import io
import logging
import os
import re
import select
import sys
from difflib import get_close_matches
from typing import Any, NoReturn

from cstl.files import shown

# The signs of our tables and sentences, for encodings without them (cp1252, gbk, ascii): one for one, so
# columns stay.
_SIGNS = str.maketrans("−–×…→±·─│•█░’“”", '--x.>~.-|*#.\'""')


class _Unfailing(io.FileIO):
    """A file descriptor that drops what it cannot write: a closed pipe (`| head`), a full disk."""

    def write(self, data: Any, /) -> int:
        try:
            while (written := super().write(data)) is None:  # a pipe that is full and does not wait by itself
                select.select([], [self], [])
        except OSError:
            return len(data)
        return written


def never_fail() -> None:
    """Make standard output and error take every sign and survive their reader; silence matplotlib."""
    codecs.register_error("cstl", _in_other_signs)
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is None:  # closed by whoever started this process
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: SIM115
        # a notebook and a test have their own
        elif type(stream) is io.TextIOWrapper and stream.errors != "cstl":
            stream.flush()
            if os.name == "nt" and stream.isatty():  # Windows writes to its console in another way
                stream.reconfigure(errors="cstl")
                continue
            raw = _Unfailing(stream.fileno(), "wb", closefd=False)
            buffer = io.BufferedWriter(raw)
            setattr(sys, name, io.TextIOWrapper(buffer, stream.encoding, errors="cstl", line_buffering=True))
    # "building the font cache", "created a temporary folder"
    logging.getLogger("matplotlib").setLevel(logging.ERROR)


def _in_other_signs(error: UnicodeError) -> tuple[str | bytes, int]:
    if not isinstance(error, UnicodeEncodeError):
        raise error
    plain = error.object[error.start : error.end].translate(_SIGNS)
    return plain.encode("ascii", "backslashreplace").decode("ascii"), error.end


class Parser(argparse.ArgumentParser):
    """Answer a slip with one sentence, the nearest option in it, and exit code 1."""

    def error(self, message: str) -> NoReturn:
        known = [option for action in self._actions for option in action.option_strings]
        wrong = re.findall(r"(--?\w[\w-]*)", message) if message.startswith("unrecognized") else []
        likely = [near for word in wrong for near in get_close_matches(word, known, n=1)]
        hint = f"; did you mean {likely[0]}?" if likely else ""
        self.exit(1, f"error: {shown(message, 300)}{hint}; see {self.prog} --help\n")
