"""Who writes into a folder: one process at a time, which says so in a note there and gives signs of life."""

import errno
import json
import os
import socket
import stat
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from cstl.files import shown

NOTE = "owner.json"
BEAT = 20.0  # seconds between two signs of life
# How a note is opened: a named pipe is not waited for.
_PLAIN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOFOLLOW", 0)
# Seconds without a sign until a process on another machine counts as gone; NFS may hide one for 60.
PATIENCE = 120.0


class InUseError(ValueError):
    """Another process writes into the folder."""


@contextmanager
def owner(folder: str | Path) -> Iterator[None]:
    """Make this process the only one that writes into a folder, until the block ends.

    `FOLDER/owner.json` says which one that is: host, process, when it was started. The file is made by one
    process alone, touched every `BEAT` seconds, and taken away at the end. What a killed process left is
    recognised: on the same machine its process is gone, at once; on another machine it is watched for
    `PATIENCE` seconds, during which a process that lives gives a sign. So no clocks are compared. Of several
    processes of one run, rank 0 is the owner.

    Raises:
        InUseError: another process is the owner; the message says which, and what to do.
        OSError: the folder is not there, is no folder, or cannot be written to.
    """
    note = Path(folder) / NOTE
    mine = json.dumps({
        "host": socket.gethostname(),
        "process": os.getpid(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "machine": _machine(),
        "started": _started(os.getpid()),
    })  # fmt: skip
    try:
        _take(note, mine)
    except OSError as error:
        reason = "it is no folder" if error.errno == errno.ENOTDIR else error.strerror or str(error)
        raise type(error)(
            f"{shown(folder)} cannot be written to: {reason[:1].lower()}{reason[1:]}"
        ) from error
    over = threading.Event()
    beat = threading.Thread(target=_give_signs, args=(note, mine, over), name="owner", daemon=True)
    beat.start()
    try:
        yield
    finally:
        over.set()
        beat.join(timeout=5)
        with suppress(OSError):  # the folder may be gone
            if (content := _look(note)) and content[0] == mine:
                note.unlink()


def is_in_use(folder: str | Path) -> bool:
    """Say whether a process owns a folder, as far as can be told at once: of one on another machine, no."""
    content = _look(Path(folder) / NOTE)
    return content is not None and bool(_lives(content[0]))


def _take(note: Path, mine: str) -> None:
    """Write the note, or replace one whose process is gone."""
    while True:
        if _write_new(note, mine):
            return
        if (content := _look(note)) is None:
            continue  # let go of this moment
        lives = _lives(content[0])
        if lives or (lives is None and _wait_for_sign(note, content)):
            raise InUseError(_in_use(note, (_look(note) or content)[0]))
        successor = note.with_name(note.name + ".next")
        _take(successor, mine)  # several may have found it gone, one is the next
        if _look(note) == content:
            os.replace(successor, note)
            return
        successor.unlink()


def _write_new(note: Path, mine: str) -> bool:
    """Write the note atomically; False: there is one."""
    try:
        file = note.open("x", encoding="utf-8")
    except FileExistsError:
        return False
    try:
        with file:
            file.write(mine)
    except OSError:
        with suppress(OSError):
            note.unlink()
        raise
    return True


def _give_signs(note: Path, mine: str, over: threading.Event) -> None:
    while not over.wait(BEAT):
        with suppress(OSError):  # a file system that is away comes back, or writing fails elsewhere
            if (content := _look(note)) is None:
                _write_new(note, mine)
            elif content[0] == mine:
                os.utime(note)
            elif content[0]:
                print(
                    f"error: {_in_use(note, content[0])}. This process was silent and ends", file=sys.stderr
                )
                sys.stderr.flush()
                os._exit(1)  # at once: whatever it would still write belongs to the other now


def _look(note: Path) -> tuple[str, int] | None:
    """Read a note and when it was touched; None where there is none."""
    try:
        number = os.open(note, _PLAIN)  # opening asks NFS for what is new
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise OSError(errno.EINVAL, f"{note.name} is a link, delete it") from None
        raise
    status = os.fstat(number)
    if not stat.S_ISREG(status.st_mode):
        os.close(number)
        raise OSError(errno.EINVAL, f"{note.name} is no plain file, delete it")
    with open(number, encoding="utf-8", errors="replace") as file:
        return file.read(10_000), status.st_mtime_ns


def _wait_for_sign(note: Path, content: tuple[str, int]) -> bool:
    """Say whether somebody touches the note within `PATIENCE`."""
    line = (
        f"{_in_use(note, content[0])}\nwaiting {PATIENCE:g} s for a sign of life; without one this process "
        "goes on"
    )
    print(line, file=sys.stderr, flush=True)
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        time.sleep(min(1.0, PATIENCE / 10))
        if (now := _look(note)) != content:
            return now is not None
    return False


def _lives(text: str) -> bool | None:
    """Say whether the process that wrote a note lives; None: this cannot be told from here."""
    try:
        content = json.loads(text)
        process, machine, started = content["process"], content["machine"], content["started"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return None
    if machine is None or machine != _machine() or type(process) is not int:
        return None
    if (now := _started(process)) is not None:
        return now == started  # else its number was given to another process
    try:
        os.kill(process, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return None
    return False  # ended, and not yet waited for


def _in_use(note: Path, text: str) -> str:
    """Write the message that says who the owner is and what to do."""
    try:
        content = json.loads(text)
        who = f"process {content['process']} on {content['host']} since {content['since']}"
    except (ValueError, KeyError, TypeError, RecursionError):
        who = "another process"
    note = note.with_name(NOTE)
    return (
        f"{shown(note.parent)} is in use: {shown(who)} writes there. Wait for it or stop it, or take "
        "another folder"
    )


def _machine() -> str | None:
    """Name this machine since its start, and where in it process numbers mean the same; None: unknown."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip() + os.readlink("/proc/self/ns/pid")
    except OSError:
        return None


def _started(process: int) -> int | None:
    """Return when a process was started, in ticks since the machine was; None: gone or unknown."""
    try:
        state, *fields = Path(f"/proc/{process}/stat").read_text(errors="replace").rpartition(")")[2].split()
        return None if state in "ZX" else int(fields[18])
    except (OSError, ValueError, IndexError):
        return None
