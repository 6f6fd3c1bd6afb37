"""Built-in models: the trained ones that ship with the package, and what a user means by `--model`."""

from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path

from geoseg.errors import UsageError
from geoseg.models import MODELS

BUILTIN_FOLDER = Path(__file__).parent / "weights"
"""Where the trained models that ship with the package lie: `<name>.safetensors`."""


def builtin_models() -> dict[str, Path]:
    """The trained models that ship with the package: name -> checkpoint, by name."""
    return dict(sorted((path.stem, path) for path in BUILTIN_FOLDER.glob("*.safetensors")))


def resolve_model(name_or_path: str | Path) -> Path:
    """The checkpoint that a user means by `--model`.

    A built-in name always means the model that ships with the package; a file of the same name is reached by `./name`.

    Raises:
        UsageError: If it is neither a built-in model nor a path, or a path where nothing is.
    """
    text = str(name_or_path)
    builtin = builtin_models()
    if text in builtin:
        return builtin[text]
    path = Path(text)
    if text and _may_exist(path):
        return path
    if path.name != text or path.suffix:
        raise UsageError(f"model={text} does not exist. Expected a checkpoint or a built-in model{_choice(builtin)}.")
    if text in MODELS:
        raise UsageError(
            f"model={text!r} is an architecture, and no trained model of that name is built in. Expected a checkpoint "
            f"or a built-in model{_choice(builtin)}. Train one: geoseg train DATA -o RUN --arch {text}."
        )
    near = get_close_matches(text, [*builtin, *MODELS], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise UsageError(f"model={text!r} is unknown.{hint} Expected a checkpoint or a built-in model{_choice(builtin)}.")


def _may_exist(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:
        return True  # too long a name, a folder that is closed to us: reading it will say


def _choice(builtin: Mapping[str, Path]) -> str:
    return f" ({', '.join(builtin)})" if builtin else " (none in this installation)"
