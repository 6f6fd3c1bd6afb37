"""What the sources of one run share while they are read."""

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoseg.config import FolderSource, SceneSource, TrainConfig
from geoseg.errors import ConfigError, nearest
from geoseg.training.sources.files import OpenFiles
from geoseg.training.sources.further import Further
from geoseg.training.sources.masks import Meanings, packed
from geoseg.training.sources.surveys import Surveys, belonging

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Context:
    """A configuration with open files and what was found out before."""

    config: TrainConfig
    files: OpenFiles
    surveys: Surveys
    names_in: Callable[[Path], frozenset[str]]
    """Names in a folder."""

    def belonging(self, paths: Iterable[Path]) -> tuple[Path, ...]:
        """The files with those beside them that decide what they say."""
        return belonging(paths, self.names_in)

    @property
    def names(self) -> tuple[str, ...]:
        """The classes of the main head."""
        return self.config.class_names

    def further(self, paths: Mapping[str, Path]) -> Further:
        """The further heads, with the target rasters of one image."""
        return Further(self.config.further_heads, paths, self.files)

    def meanings(self, source: SceneSource | FolderSource, values: Mapping[int, str] | None = None) -> Meanings:
        """What a source says of its label rasters; `values` where it says nothing itself."""
        said = source.values if source.values is not None or source.colors is not None else values
        return Meanings(
            self.names,
            {packed(color): index for index, color in reversed(list(enumerate(self.config.class_colors)))},
            None if said is None else {value: self._index(name) for value, name in said.items()},
            None if source.colors is None else {packed(c): self._index(name) for c, name in source.colors.items()},
        )

    def _index(self, name: str) -> int:
        if name not in self.names:
            hint = nearest(name, self.names)
            raise ConfigError(f"a source names class {name!r}.{hint} Expected one of {', '.join(self.names)}.")
        return self.names.index(name)

    def known(self, said: Sequence[str] | None, present: Sequence[str], path: Path | str) -> tuple[int, ...]:
        """Indices of the classes that labels tell apart: those said, else those drawn; if all are, the first too."""
        names = self.names
        if said is None:
            said = present if set(present) < set(names[1:]) else names
            if missing := [name for name in names[1:] if name not in said]:
                log.warning("%s has no %s: there, it is not told from %s.", path, " and no ".join(missing), names[0])
        return tuple(index for index, name in enumerate(names) if name in said)

    def question(self, source: SceneSource | FolderSource) -> dict[str, Any]:
        """All of the configuration that decides what a source's pixels and targets are, as JSON has it."""
        left_out = {"weight", "zoom", "gsd", "split", "train", "val"}
        heads = self.config.further_heads.items()
        return {
            "source": source.model_dump(mode="json", exclude=left_out),
            "main": self.config.main_head is not None,
            "classes": self.names,
            "colors": self.config.class_colors,
            "heads": {name: head.model_dump(mode="json", include={"task", "classes"}) for name, head in heads},
            "gsd": source.gsd,
        }
