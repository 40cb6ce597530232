"""Files that appear whole or not at all: written beside their place, synced, then moved there."""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO

from .errors import OutputError


def replace_all(files: Mapping[Path, bytes]) -> None:
    """Write several files, all of which are on disk before the first is moved to its place.

    Raises:
        OutputError: as `replacing`, or there is a directory in the place of a file; then none is replaced.
    """
    for path in files:
        if path.is_dir():
            raise OutputError(f"{path}: expected a file or none, got a directory. Nothing was changed.")
    with contextlib.ExitStack() as stack:
        for path, content in files.items():
            stream = stack.enter_context(replacing(path))
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())


@contextlib.contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[IO[bytes]]:
    """A binary stream whose content becomes the file `path` when the block ends without an error.

    Until then, and after any failure, what was there before is untouched.

    Raises:
        OutputError: the folder is missing or not writable, or the disk is full.
    """
    path = Path(path)
    if not path.name:
        raise OutputError(f"{path}: expected a file, got a folder. Nothing was changed.")
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        try:
            with temporary.open("xb") as stream:
                yield stream
                stream.flush()
                os.fsync(stream.fileno())
            os.replace(temporary, path)
        finally:
            with contextlib.suppress(OSError):
                temporary.unlink(missing_ok=True)
    except OutputError:
        raise
    except OSError as error:
        raise OutputError(f"{path}: could not be written ({error.strerror or error}). Nothing was changed.") from None
    with contextlib.suppress(OSError):  # make the new name durable, where the system lets a folder be synced
        folder = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
