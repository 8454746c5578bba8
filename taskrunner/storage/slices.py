"""A stretch of an open file: what a lane fills or reads, and how far it is."""

from __future__ import annotations

import os
from dataclasses import dataclass

from taskrunner.errors import TransferIOError


@dataclass(slots=True)
class FileSlice:
    """A stretch of an open file that a lane fills (download) or reads (upload); the lane never seeks.

    `length` None means to the end of the stream. `done` counts the bytes moved so far and is read by the loop
    while a lane moves it, for progress and for resuming where a connection dropped.
    """

    fd: int
    offset: int
    length: int | None
    done: int = 0

    def append(self, chunk: memoryview) -> None:
        """Write the next bytes at their place.

        Raises TransferIOError where the disk takes no more; a plain OSError would look like the network's.
        """
        while chunk:
            try:
                written = os.pwrite(self.fd, chunk, self.offset + self.done)
            except OSError as error:
                raise TransferIOError(
                    f"can't write to the local disk: {error.strerror}; is there enough space on it?"
                ) from error
            self.done += written
            chunk = chunk[written:]
