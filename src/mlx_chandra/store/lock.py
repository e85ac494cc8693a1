"""Lets one run at a time write to a place, by a lock that dies with its process."""

import contextlib
import errno
import os
import time

from mlx_chandra.errors import OutputBusyError, OutputError

_PATIENCE = 1.0  # seconds: `running_on` of another process holds the lock for a moment
_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.ENOTSUP)


class Lock:
    """The right to write to `guarded`, held until release() or the end of the process.

    `option` is the one that names the place. `exists` is False on a disk that knows no locks.

    Raises:
        OutputBusyError: Another run holds it.
        OutputError: The place can't be locked.
    """

    def __init__(self, path: str, guarded: str, option: str) -> None:
        from filelock import FileLock, Timeout

        self._path, self.exists = path, True
        self._held: os.stat_result | None = None
        self._lock = FileLock(
            path, timeout=_PATIENCE, thread_local=False, fallback_to_soft=False, on_acquired=self._note
        )
        try:
            self._lock.acquire()
        except Timeout as error:
            number = _number(path)
            who = f"Another run (process {number})" if number else "Another run"
            raise OutputBusyError(
                f"{who} is writing to {guarded}.", f"Wait for it to end, or give this run another {option}."
            ) from error
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise OutputError(
                    f"{guarded} can't be written: {error.strerror}.", "Check the folder and its rights."
                ) from error
            self.exists = False

    @property
    def is_there(self) -> bool:
        """Whether its file is still where others look for it."""
        with contextlib.suppress(OSError):
            return self._held is None or os.path.samestat(self._held, os.stat(self._path))
        return False

    def release(self) -> None:
        """Let others in. A file that isn't this lock's any more is left to who holds it."""
        with contextlib.suppress(OSError):
            if self._held is not None and self.is_there:
                os.unlink(self._path)
            self._lock.release()
        self._held = None

    def _note(self, file: int) -> None:
        """Write this process's number into the file, for the reader of a message only."""
        self._held = os.fstat(file)
        with contextlib.suppress(OSError):
            os.truncate(file, 0)
            os.pwrite(file, b"%d\n" % os.getpid(), 0)


def lock_path(csv_path: str) -> str:
    """Return where the lock of a CSV lies."""
    folder, name = os.path.split(csv_path)
    return os.path.join(folder, f".{name}.lock")


def running_on(csv_path: str) -> int | None:
    """Return the number of the process that writes to the CSV; None for none.

    0 where there is one whose number isn't known. Tests the lock itself, for an old number may be another
    process's by now.
    """
    from filelock import lock_descriptor

    path = lock_path(os.path.realpath(csv_path))
    with contextlib.suppress(OSError):  # there is no lock, or the disk knows none
        file = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        with os.fdopen(file):
            if lock_descriptor(file, blocking=False):
                return None
            time.sleep(0.0 if _number(path) else 0.1)  # it may have been taken this moment
            return _number(path)
    return None


def _number(path: str) -> int:
    try:
        with open(path, "rb") as file:
            return int(file.read(20))
    except (OSError, ValueError):
        return 0
