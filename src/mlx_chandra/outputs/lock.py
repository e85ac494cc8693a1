"""One run at a time for one place, by a lock that dies with its process.

It is a file held by flock, which the system lets go of when a process ends in whatever way, so a leftover
lock file refuses nobody. Where the file system knows no locks, there is none.
"""

import contextlib
import errno
import fcntl
import os

from mlx_chandra.errors import OutputBusyError, OutputError
from mlx_chandra.outputs.disk import disk_trouble, leads_to


class Lock:
    """The right to write to the place `guarded`, held until release() or the end of the process.

    `option` is the one that names the place. Raises OutputBusyError where another run holds it, and
    OutputError where it can't be locked.
    """

    def __init__(self, path: str, guarded: str, option: str) -> None:
        self._path, self._option = path, option
        while True:
            with disk_trouble(guarded):
                self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
            self._take(guarded)
            if self.is_there:
                break
            os.close(self._file)  # its last holder removed it while we waited for it; take the new one
        with contextlib.suppress(OSError):  # the number is for the reader of a message only
            os.truncate(self._file, 0)
            os.pwrite(self._file, b"%d\n" % os.getpid(), 0)

    def _take(self, guarded: str) -> None:
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            holder = os.pread(self._file, 20, 0).decode("ascii", "replace").strip()
            os.close(self._file)
            who = f"Another run (process {holder})" if holder else "Another run"
            raise OutputBusyError(
                f"{who} is writing to {guarded}.",
                f"Wait for it to end, or give this run another {self._option}.",
            ) from error
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                os.close(self._file)
                raise OutputError(f"{guarded} can't be locked: {error.strerror}.") from error

    @property
    def is_there(self) -> bool:
        """Whether its file is still where others look for it."""
        return leads_to(self._path, self._file)

    def release(self) -> None:
        """Lets others in; a file that isn't this lock's any more is left to who holds it."""
        with contextlib.suppress(OSError):
            if self.is_there:
                os.unlink(self._path)
        with contextlib.suppress(OSError):
            os.close(self._file)


def holder(path: str) -> int | None:
    """The process that holds the lock at `path`, where it is on this machine; None for none.

    Its number is read and looked for, for to try the lock could refuse it to a run that begins this moment.
    """
    try:
        with open(path, "rb") as file:
            number = int(file.read(20))
        os.kill(number, 0)
    except PermissionError:  # there is one, of somebody else
        return number
    except (OSError, ValueError, OverflowError):
        return None
    return number
