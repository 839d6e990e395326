"""The files of Envoy's access log: a new one for each Envoy and from time to time, read to the end and then removed.

Envoy writes to `access.log`, a link to a file whose name is never given to another one: a file and a number of bytes
in it say what of the log was counted, whoever is started anew. A file is complete as soon as a newer one exists, since
Envoy closes the old one before it opens the next; a line that a killed Envoy left unfinished stays alone at its end.

The files of a home have an order among themselves, whatever the clock says: each is later than all that are there. With
a home that was lost its order is lost, too. So all files of a home bear a name that was drawn for the first of them,
their log's. Nothing of another log says anything about what is counted of this one.
"""

from __future__ import annotations

import secrets
import time
from dataclasses import dataclass
from pathlib import Path

from gateway import bootstrap

LINK = bootstrap.ACCESS_LOG
FOLDER = "logs"
_SUFFIX = ".log"


@dataclass(frozen=True, slots=True, order=True)
class Position:
    """What lies before it is counted: all older files, and `offset` bytes of `file`. Positions have an order."""

    file: str = ""
    offset: int = 0

    def __str__(self) -> str:
        return f"{self.file}:{self.offset}" if self.file else ""

    @classmethod
    def of(cls, text: str) -> Position:
        """From its text. Raises ValueError."""
        file, _, offset = text.rpartition(":")
        return cls(file, int(offset)) if text else cls()

    @property
    def log(self) -> str:
        """Which log the file belongs to, "" for the start of any."""
        return self.file.removesuffix(_SUFFIX).rpartition("-")[2]

    def covers(self, other: Position) -> bool:
        """Whether all of this log that lies before `other` lies before this position. Another log's is not known."""
        return other == START or (other.log == self.log and other <= self)


START = Position()


@dataclass(frozen=True, slots=True)
class Piece:
    """Whole lines of one file, from `begin` to `end`."""

    begin: Position
    end: Position
    lines: bytes


class AccessLogs:
    """Those in a gateway's home."""

    def __init__(self, home: Path) -> None:
        self._link = home / LINK
        self._folder = home / FOLDER

    def begin(self) -> None:
        """The Envoy that opens `access.log` next writes to a new file. Raises OSError."""
        self._folder.mkdir(mode=0o700, exist_ok=True)
        names = self.files()
        stamps = [int(name.partition("-")[0]) for name in names]
        stamp = max([time.time_ns(), *(number + 1 for number in stamps)])  # whatever the clock says
        log = Position(names[-1]).log if names else secrets.token_hex(8)
        name = f"{stamp:020d}-{log}{_SUFFIX}"
        temporary = self._link.with_name(f".{LINK}.{secrets.token_hex(4)}")
        temporary.symlink_to(Path(FOLDER) / name)
        temporary.replace(self._link)

    def files(self) -> list[str]:
        """Their names, the oldest first."""
        try:
            found = [path.name for path in self._folder.iterdir()]
        except FileNotFoundError:
            return []
        return sorted(name for name in found if name.endswith(_SUFFIX) and name.partition("-")[0].isdigit())

    def is_open(self) -> bool:
        """Whether Envoy writes to the file that `access.log` names; False while it has to be told to."""
        return self._link.exists()

    def size(self, name: str = "") -> int:
        """Bytes of a file, of the present one by default; 0 if there is none."""
        try:
            return (self._folder / name if name else self._link).stat().st_size
        except OSError:
            return 0

    def remove(self, name: str) -> None:
        """Gone already is success."""
        (self._folder / name).unlink(missing_ok=True)

    def left_behind(self, *positions: Position) -> list[str]:
        """The complete files that are counted up to all these positions; none, where one of them leads to no file."""
        names = self.files()
        if not all(position.file in names for position in positions):
            return []
        return [name for name in names[:-1] if name < min(positions).file]

    def read(self, position: Position, limit: int) -> Piece | None:
        """The next lines, about `limit` bytes of them; None if there are none yet. Raises OSError.

        Behind a position in another log, that of a home which was lost, everything is still to be read.
        """
        while True:
            names = self.files()
            if position.file not in names:
                log = position.log
                following = [name for name in names if name > position.file or Position(name).log != log]
                if not following:
                    return None
                position = Position(following[0])
            newer = [name for name in names if name > position.file]  # looked for before the read
            lines = self._lines(position, limit)
            if lines:
                return Piece(position, Position(position.file, position.offset + len(lines)), lines)
            if not newer:
                return None
            position = Position(newer[0])

    def _lines(self, position: Position, limit: int) -> bytes:
        try:
            with (self._folder / position.file).open("rb") as file:
                file.seek(position.offset)
                data = file.read(limit)
                end = data.rfind(b"\n") + 1
                while not end and len(data) >= limit:  # one line that is longer than that
                    more = file.read(limit)
                    if not more:
                        break
                    end = len(data) + more.rfind(b"\n") + 1 if b"\n" in more else 0
                    data += more
        except FileNotFoundError:  # removed meanwhile
            return b""
        return data[:end]
