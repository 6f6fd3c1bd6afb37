"""The journal of `geoseg vectorize`: a killed run goes on from what it had finished, to the same bytes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import geopandas
import numpy as np
import pytest
import shapely
from click.testing import CliRunner
from test_cli_vectorize import CLASSES, TOWN_GRID, town, write

from geoseg.cli.main import geoseg
from geoseg.raster import RasterProfile, write_cog
from geoseg.spool import Spool
from geoseg.vectors import features
from geoseg.vectors import journal as journal_module
from geoseg.vectors import layer as layer_module
from geoseg.vectors.journal import Journal
from geoseg.vectors.shapefile import digest
from geoseg.vectors.stored import trace_into

TESTS = Path(__file__).parent
ENV = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
COMMAND = ["town.tif", "--probabilities", "p.tif", "-o", "v.gpkg"]
PARTIAL = "v.gpkg.partial"

KILLED = """
import os, signal, sys
from geoseg.outputs import Outputs
from geoseg.spool import Spool
from geoseg.vectors import features, layer
from geoseg.cli.main import geoseg

features._BATCH = 16  # vertices of raw outlines: several steps of them
place, count = sys.argv[1], int(sys.argv[2])
owner = {"write": Spool, "commit": Outputs, "remove": Spool, "_check": layer}[place]
before = getattr(owner, place)

def counted(*arguments, **options):
    global count
    count -= 1
    if count < 0:
        os.kill(os.getpid(), signal.SIGKILL)
    return before(*arguments, **options)

setattr(owner, place, counted)
geoseg(["vectorize", *sys.argv[3:]])
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """With a town and its probabilities; the run's own."""
    monkeypatch.chdir(tmp_path)
    labels, probabilities = town()
    write(tmp_path / "town.tif", labels, TOWN_GRID)
    profile = RasterProfile(grid=TOWN_GRID, bands=[item.name for item in CLASSES], scale=1 / 254)
    write_cog(tmp_path / "p.tif", [(TOWN_GRID.window, probabilities)], profile)
    return tmp_path


def vectorize(*options):
    return CliRunner().invoke(geoseg, ["vectorize", *COMMAND, *map(str, options)])


def killed(place, count, *options):
    """A run whose process kills itself when it calls something for the last time but so many."""
    command = [sys.executable, "-c", KILLED, place, str(count), *COMMAND, *options]
    done = subprocess.run(command, env=ENV, capture_output=True, text=True, timeout=240, check=False)
    assert done.returncode == -signal.SIGKILL, done.stderr


def steps(folder):
    return sorted(path.name for path in (folder / PARTIAL).glob("cell-*.zst"))


@pytest.fixture
def bytes_wanted(folder):
    """Of a run that nobody disturbs."""
    done = CliRunner().invoke(geoseg, ["vectorize", *COMMAND[:-1], "whole.gpkg"])
    assert done.exit_code == 0, done.stderr
    found = (folder / "whole.gpkg").read_bytes()
    (folder / "whole.gpkg").unlink()
    return found


@pytest.mark.slow
def test_killed_step_by_step_and_gone_on_with(folder, bytes_wanted):
    before = sorted(path.name for path in folder.iterdir())
    seen = []
    for options in ([], ["--resume"], ["--resume"]):
        killed("write", 1, *options)
        assert not (folder / "v.gpkg").exists()
        seen.append(len(steps(folder)))
    assert seen == [1, 2, 3]  # of areas, buildings, and the tiles of the skeleton
    killed("_check", 0, "--resume")  # all is there, the file is half written
    assert len(steps(folder)) > 3
    killed("commit", 0, "--resume")
    done = vectorize("--resume")
    assert (done.exit_code, done.stderr) == (0, "")
    assert (folder / "v.gpkg").read_bytes() == bytes_wanted
    assert sorted(path.name for path in folder.iterdir()) == [*before, "v.gpkg"]


def only_read(journal, function, items):
    """As `Journal.map`, where all is there already."""
    return MAP(journal, lambda item: pytest.fail(f"{item} is there"), items)


MAP = Journal.map


@pytest.mark.slow
def test_raw_outlines_killed_and_gone_on_with(folder, monkeypatch):
    done = CliRunner().invoke(geoseg, ["vectorize", *COMMAND[:-1], "whole.gpkg", "--raw"])
    assert done.exit_code == 0, done.stderr
    killed("write", 1, "--raw")
    killed("write", 1, "--raw", "--resume")
    assert len(steps(folder)) == 2
    killed("_check", 0, "--raw", "--resume")
    assert len(steps(folder)) > 2
    monkeypatch.setattr(features, "_BATCH", 16)
    monkeypatch.setattr(Journal, "map", only_read)
    done = vectorize("--raw", "--resume")
    assert (done.exit_code, done.stderr) == (0, "")
    assert (folder / "v.gpkg").read_bytes() == (folder / "whole.gpkg").read_bytes()


@pytest.mark.slow
def test_killed_when_the_output_is_there_already(folder, bytes_wanted):
    killed("remove", 0)
    assert (folder / "v.gpkg").read_bytes() == bytes_wanted
    assert vectorize("--resume").exit_code == 2  # it exists
    assert vectorize("--resume", "--overwrite").exit_code == 0
    assert (folder / "v.gpkg").read_bytes() == bytes_wanted
    assert not (folder / PARTIAL).exists()


def test_what_is_finished_is_not_made_again(folder, bytes_wanted, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(layer_module, "_check", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        done = vectorize()
    assert done.exit_code != 0
    assert "--resume" in done.stderr
    for name in ("fit_areas", "fit_walls", "find_streets"):
        monkeypatch.setattr(f"geoseg.vectors.features.{name}", None)
    done = vectorize("--resume")
    assert done.exit_code == 0, done.stderr
    assert (folder / "v.gpkg").read_bytes() == bytes_wanted


@pytest.fixture
def interrupted(folder):
    """A run that ended before its file was written."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(layer_module, "_check", lambda *_: os.kill(os.getpid(), signal.SIGINT))
        vectorize()
    assert steps(folder)
    return folder


def test_neither_is_taken_for_granted(interrupted):
    done = vectorize()
    assert done.exit_code == 2
    assert "--resume" in done.stderr
    assert "--overwrite" in done.stderr
    assert steps(interrupted)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--min-area-m2", "7"], "--min-area-m2 was none, now 7.0"),
        (["--classes", "building"], "the classes"),
        (["--kinds", "road=area"], "--kinds"),
    ],
)
def test_other_options_are_refused(interrupted, options, said):
    done = vectorize("--resume", *options)
    assert done.exit_code == 2
    assert said in done.stderr
    assert steps(interrupted)
    assert vectorize("--overwrite", *options).exit_code == 0


def test_another_raster_is_refused(interrupted):
    stat = Path("town.tif").stat()
    os.utime("town.tif", ns=(stat.st_atime_ns, stat.st_mtime_ns + 1))
    done = vectorize("--resume")
    assert done.exit_code == 2
    assert "the raster differs" in done.stderr
    os.utime("town.tif", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    os.utime("p.tif", ns=(0, 0))
    assert "--probabilities differs" in vectorize("--resume").stderr


def test_all_parts_of_an_area_of_interest_are_compared(tmp_path):
    for ending in (".shp", ".dbf", ".prj", ".PRJ", ".txt"):
        (tmp_path / f"a{ending}").write_bytes(b"before")
    seen = [digest(tmp_path / "a.shp")]
    for ending in (".shp", ".dbf", ".PRJ", ".shx"):
        (tmp_path / f"a{ending}").write_bytes(b"after")
        seen.append(digest(tmp_path / "a.shp"))
    (tmp_path / "a.prj").unlink()
    seen.append(digest(tmp_path / "a.shp"))
    assert len(set(seen)) == len(seen)
    (tmp_path / "a.txt").write_bytes(b"after")
    assert digest(tmp_path / "a.shp") == seen[-1]


def test_more_items_than_a_frame_has_on_the_way_to_it(tmp_path):
    """The numbers of the frames that follow do not depend on how many there are."""

    def run(journal):
        def frames(count):
            return {"a": FRAMES["a"].assign(name=str(len(journal.map(lambda k: (np.array([k]),), range(count)))))}

        return [journal.frames(lambda: frames(count), FRAMES["a"].crs)["a"]["name"][0] for count in (12, 3)]  # noqa: B023

    with pytest.MonkeyPatch.context() as patch, Spool.open(tmp_path / "s", {}) as spool:
        assert run(Journal(spool)) == ["12", "3"]
        frames = [step for step in spool.done if step % journal_module._ROOM == 0]
        assert len(frames) == 2
        patch.setattr(Journal, "map", None)
        assert run(Journal(spool)) == ["12", "3"]
    assert journal_module._ROOM > 10**8  # tiles of any raster


def test_a_damaged_step_is_made_again(interrupted, bytes_wanted):
    path = interrupted / PARTIAL / steps(interrupted)[1]
    path.write_bytes(path.read_bytes()[:-20])
    assert vectorize("--resume").exit_code == 0
    assert (interrupted / "v.gpkg").read_bytes() == bytes_wanted


def test_an_input_that_cannot_be_outlined_leaves_nothing(folder, monkeypatch):
    monkeypatch.setattr(trace_into, "__kwdefaults__", trace_into.__kwdefaults__ | {"max_patches": 0})
    before = sorted(path.name for path in folder.iterdir())
    done = vectorize()
    assert done.exit_code == 2
    assert "--min-area-m2" in done.stderr
    assert sorted(path.name for path in folder.iterdir()) == before


FRAMES = {
    "a": geopandas.GeoDataFrame(
        {"id": np.arange(3), "name": ["x", "ü\0", None], "p": np.array([0.1, np.nan, 1e300]), "b": [True, False, True]},
        geometry=[shapely.box(0, 0, 1 / 3, 1), shapely.Point(1e-300, 2), shapely.box(0, 0, 5, 5).boundary],
        crs="EPSG:32637",
    ),
    "empty": geopandas.GeoDataFrame({"id": np.empty(0, np.int32)}, geometry=[], crs="EPSG:32637"),
}


def test_frames_come_back_as_they_were(tmp_path):
    def made():
        return FRAMES

    def never():
        raise AssertionError("it is there")

    with Spool.open(tmp_path / "s", {}) as spool:
        journal = Journal(spool)
        journal.frames(made, None)
        again = Journal(spool).frames(never, FRAMES["a"].crs)
    assert list(again) == list(FRAMES)
    for name, frame in FRAMES.items():
        assert again[name].crs == frame.crs
        assert list(again[name].columns) == list(frame.columns)
        for column in frame:
            assert again[name][column].dtype == frame[column].dtype or frame[column].dtype.kind not in "iufb"
        assert shapely.to_wkb(again[name].geometry).tolist() == shapely.to_wkb(frame.geometry).tolist()
        plain, same = (each.drop(columns="geometry") for each in (frame, again[name]))
        assert json.dumps(plain.to_dict("list")) == json.dumps(same.to_dict("list"))


def test_numbers_do_not_depend_on_what_is_there(tmp_path):
    """Frames that are there do not ask for the items on the way to them: what follows still has its own number."""
    asked = []

    def run(journal):
        def frames(name):
            items = journal.map(lambda k: (asked.append(k) or np.array([k]),), [f"{name}{k}" for k in range(3)])
            return {name: FRAMES["a"].assign(name=str([item[0][0] for item in items]))}

        return [journal.frames(lambda: frames(name), FRAMES["a"].crs)[name]["name"][0] for name in "xyz"]  # noqa: B023

    with Spool.open(tmp_path / "s", {}) as spool:
        first = run(Journal(spool))
        assert sorted(asked) == [f"{name}{k}" for name in "xyz" for k in range(3)]
        for gone in sorted(spool.done)[3:6]:
            spool.done.remove(gone)
        asked.clear()
        assert run(Journal(spool)) == first
        assert sorted(asked) == ["y0"]
    assert run(Journal()) == first
