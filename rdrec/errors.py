"""What the user can mend is one line: what is wrong, where, and how to mend it. All else keeps its traceback.

if __name__ == "__main__":
    sys.exit(exit_code(main))
"""

import errno
import os
import sys
from collections.abc import Callable


class UserError(ValueError):
    """Something that the user can mend; the message is one line that names the file, flag or key and the mend."""


class DatasetError(UserError):
    """Input that cannot become a dataset, or a folder that is not one."""


def printable(text: str) -> str:
    """A line that a terminal shows and does not obey: characters that move its cursor, turn the direction of writing
    or are no character at all are written as Python escapes them. Names and ids are somebody's data."""
    return "".join(one if one.isprintable() else one.encode("unicode_escape").decode() for one in text)


def exit_code(main: Callable[[], int | None]) -> int:
    """Run `main` and return the process's exit code: 0 or its own, 2 for what the user can mend, 130 when interrupted,
    141 where nobody reads what is printed any more, as after `| head`.

    A fault of the program passes through, so that Python prints its traceback and leaves with 1.
    """
    try:
        code = main() or 0
        if sys.stdout is not None:  # a process may be started without one
            sys.stdout.flush()
        return code
    except KeyboardInterrupt as error:
        print(f"error: {printable(str(error)) or 'interrupted'}", file=sys.stderr)
        return 130
    except (UserError, OSError) as error:
        if isinstance(error, BrokenPipeError) and _unread():
            return 141
        if not _mendable(error):
            raise
        said = " ".join(str(error).split())
        if isinstance(error, OSError) and error.errno == errno.ENOSPC:
            said += ": the disk is full; what was there before is untouched: free some space and give the command again"
        print(f"error: {printable(said)}", file=sys.stderr)
        return 2


def _unread() -> bool:
    """Whether standard output is a pipe that was shut at its other end; then it leads nowhere from now on."""
    try:
        print(flush=True)  # an empty line, since what was printed may be out of the buffer already
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains when it ends
        return True
    return False


def _mendable(error: UserError | OSError) -> bool:
    """Of the system's errors, a file that is missing, shut or of the wrong kind, named by its path, and a full disk."""
    if isinstance(error, UserError) or error.errno == errno.ENOSPC:
        return True
    of_a_file = isinstance(error, FileNotFoundError | PermissionError | NotADirectoryError | IsADirectoryError)
    return of_a_file and error.filename is not None
