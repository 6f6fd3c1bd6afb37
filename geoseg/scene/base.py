"""Base: what a scene, a stack of several and a resampled one have in common, open and as what opens them again."""

from abc import ABC, abstractmethod
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np

if TYPE_CHECKING:
    from geoseg.scene import Band, Scene, SceneSource


class Opened(ABC):
    """Files that are open for reading."""

    @abstractmethod
    def close(self) -> None:
        """Close the files. Reading is over."""

    @abstractmethod
    def fingerprint(self) -> dict[str, Any]:
        """See `Source.fingerprint`."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, err: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class Source(ABC):
    """All that is needed to open files again, in another thread or process."""

    @abstractmethod
    def open(self) -> Opened:
        """With handles of its own.

        Raises:
            SceneError: If a file cannot be opened, or several no longer fit together.
        """

    def fingerprint(self) -> dict[str, Any]:
        """What makes two reads of this source equal, as JSON has it. Differs when a file was written in between.

        Raises:
            SceneError: If a file cannot be opened.
        """
        with self.open() as opened:
            return opened.fingerprint()


class OpenedScenes(Opened):
    """Scenes that are read as one."""

    @property
    @abstractmethod
    def parts(self) -> "tuple[Scene, ...]":
        """The scenes it is made of, at least one, as they are."""

    @property
    def path(self) -> str:
        """Of the first file, as given: it stands for all in messages."""
        return self.parts[0].path

    @property
    def bands(self) -> "tuple[Band, ...]":
        """The chosen ones of every file, in the order they are read."""
        return tuple(band for part in self.parts for band in part.bands)

    @property
    def dtype(self) -> np.dtype:
        """Of all files."""
        return self.parts[0].dtype

    @property
    def nodata(self) -> tuple[float | None, ...]:
        """The value in use per chosen band."""
        return tuple(value for part in self.parts for value in part.nodata)

    def close(self) -> None:
        """Close the files. Reading is over."""
        for part in self.parts:
            part.close()


class SourceOfScenes(Source):
    """What opens scenes that are read as one."""

    @property
    @abstractmethod
    def parts(self) -> "tuple[SceneSource, ...]":
        """Of the scenes it is made of, at least one."""

    @property
    def path(self) -> str:
        """Of the first file, which stands for all in messages."""
        return self.parts[0].path

    @property
    def paths(self) -> tuple[str, ...]:
        """Of all files."""
        return tuple(part.path for part in self.parts)

    @property
    def bands(self) -> tuple[int, ...]:
        """Band numbers in the files, in the order they are read."""
        return tuple(band for part in self.parts for band in part.bands)

    @property
    def nodata(self) -> float | None:
        """As `SceneSource.nodata`; one value for all files."""
        return self.parts[0].nodata
