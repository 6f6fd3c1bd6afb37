"""What all tests share."""

import logging
import os
import signal
from pathlib import Path

import numpy as np
import pytest
from affine import Affine
from hypothesis import HealthCheck, settings

settings.register_profile("geoseg", deadline=None, print_blob=True, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("geoseg")

# Where the tests were started in the background, Ctrl-C is ignored, and the programs they start would inherit that.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture(autouse=True, scope="session")
def _own_cache(tmp_path_factory):
    """Decoded pixels go to a folder of the test run, in this process and in those it starts."""
    os.environ["XDG_CACHE_HOME"] = str(tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="session")
def compiled() -> None:
    """Outlining has been used on this machine: what is started from here on does not say that it compiles first."""
    from geoseg.grid import Grid  # here, for it takes a second that most tests need not wait
    from geoseg.vectors.patches import trace
    from geoseg.vectors.planes import ArrayPlanes

    labels = np.zeros((1, 1), np.uint8)
    grid = Grid(shape=(1, 1), transform=Affine.identity(), crs=None)
    trace(ArrayPlanes(labels, grid, {0: "background", 1: "building"}), [1], subpixel=True)


@pytest.fixture(scope="session")
def data_folder() -> Path:
    """The labelled imagery, or a skip where it is absent."""
    folder = os.environ.get("GEOSEG_DATA", "")
    if not folder or not Path(folder).is_dir():
        pytest.skip("GEOSEG_DATA does not name a folder of labelled imagery")
    return Path(folder)


@pytest.fixture
def warnings(monkeypatch):
    """What is logged from WARNING up."""
    lines = []

    class Handler(logging.Handler):
        def emit(self, record):
            lines.append(record.getMessage())

    handler = Handler(logging.WARNING)
    logger = logging.getLogger("geoseg")
    logger.addHandler(handler)
    yield lines
    logger.removeHandler(handler)
