"""The journal: what was written is read back or counts as not done; one owner; nothing of others is touched."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from geoseg import spool as module
from geoseg.errors import OutputError, OutputExistsError, ResumeError
from geoseg.spool import Spool

RUN = {"scene": {"shape": [3, 4], "nodata": None}, "plan": {"cell_side": 512}}
CELL = {"labels": np.arange(12, dtype=np.uint8).reshape(3, 4), "probabilities": np.full((3, 3, 4), 7, np.uint8)}


def names(folder):
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "out.tif.partial"


@settings(max_examples=25)
@given(
    arrays=st.dictionaries(
        st.sampled_from(["labels", "confidence", "probabilities"]),
        hnp.arrays(st.sampled_from([np.uint8, np.float32]), hnp.array_shapes(max_dims=3, min_side=1, max_side=9)),
        min_size=1,
    ),
    index=st.integers(0, 10**8 - 1),
)
def test_a_cell_is_read_back_as_it_was_written(arrays, index):
    with tempfile.TemporaryDirectory() as root, Spool.open(Path(root) / "p", RUN) as spool:
        spool.write(index, arrays)
        assert spool.done == {index}
        for found in (spool.read(index), *(spool.read(index, only=name) for name in arrays)):
            for name, array in found.items():
                assert array.dtype == arrays[name].dtype
                np.testing.assert_array_equal(array, arrays[name])
        assert list(spool.read(index)) == list(arrays)
        assert list(spool.read(index, only="labels")) == (["labels"] if "labels" in arrays else [])


def test_arrays_of_any_memory_layout(folder):
    with Spool.open(folder, RUN) as spool:
        spool.write(0, {"labels": CELL["labels"].T, "confidence": CELL["labels"][::2, ::-1]})
        np.testing.assert_array_equal(spool.read(0)["labels"], CELL["labels"].T)
        np.testing.assert_array_equal(spool.read(0)["confidence"], CELL["labels"][::2, ::-1])


def test_finished_cells_survive_and_are_found_on_resume(folder):
    with Spool.open(folder, RUN) as spool:
        for index in (7, 0, 123):
            spool.write(index, CELL)
    assert names(folder) == ["cell-00000000.zst", "cell-00000007.zst", "cell-00000123.zst", "lock", "run.json"]
    with Spool.open(folder, RUN, resume=True) as spool:
        assert spool.done == {0, 7, 123}
        np.testing.assert_array_equal(spool.read(7)["labels"], CELL["labels"])


def test_resume_with_nothing_to_resume_begins(folder):
    with Spool.open(folder, RUN, resume=True) as spool:
        assert spool.done == set()
        spool.write(0, CELL)
    assert json.loads((folder / "run.json").read_text()) == RUN


def test_finished_cells_are_not_thrown_away_unasked(folder):
    with Spool.open(folder, RUN) as spool:
        spool.write(0, CELL)
    before = names(folder)
    with pytest.raises(OutputExistsError, match=r"holds 1 finished cell.*--resume.*--overwrite"):
        Spool.open(folder, RUN)
    assert names(folder) == before
    with Spool.open(folder, {"scene": "another"}, overwrite=True) as spool:
        assert spool.done == set()
        assert names(folder) == ["lock", "run.json"]


def test_messages_are_in_the_words_of_the_command(folder):
    words = {"unit": "part", "inputs": "raster"}
    with Spool.open(folder, RUN, **words) as spool:
        spool.write(0, CELL)
        spool.write(1, CELL)
        (folder / "cell-00000001.zst").write_bytes(b"")
        with pytest.raises(OutputError, match="Expected the part as it was written"):
            spool.read(1)
    with pytest.raises(OutputExistsError, match="holds 2 finished parts of an interrupted run"):
        Spool.open(folder, RUN, **words)
    with pytest.raises(ResumeError, match="Expected the first run's raster and options"):
        Spool.open(folder, {"--gsd": 1}, resume=True, **words)
    (folder / "run.json").unlink()
    with pytest.raises(ResumeError, match="which says what run the parts are of"):
        Spool.open(folder, RUN, resume=True, **words)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"plan": {"cell_side": 256}}, "of another run: plan differs. Expected"),
        ({"scene": None, "plan": 1}, "of another run: scene .*, plan "),
        ({"aoi": "abc"}, "of another run: aoi was none, now abc. Expected"),
        ({"--confidence": True, "--tile-size": 44}, "--confidence was none, now on, --tile-size was none, now 44"),
    ],
)
def test_cells_of_another_run_are_refused_and_kept(folder, change, says):
    with Spool.open(folder, RUN) as spool:
        spool.write(0, CELL)
    before = names(folder)
    with pytest.raises(ResumeError, match=says) as refused:
        Spool.open(folder, RUN | change, resume=True)
    assert refused.value.exit_code == 2
    assert names(folder) == before
    with Spool.open(folder, RUN, resume=True) as spool:  # and the lock was let go of
        assert spool.done == {0}


@pytest.mark.parametrize("damage", ["missing", "damaged"])
def test_cells_without_their_fingerprint_are_refused(folder, damage):
    with Spool.open(folder, RUN) as spool:
        spool.write(0, CELL)
    (folder / "run.json").unlink() if damage == "missing" else (folder / "run.json").write_text("{")
    with pytest.raises(ResumeError, match=r"run\.json, which says .*Use --overwrite"):
        Spool.open(folder, RUN, resume=True)


@settings(max_examples=60)
@given(st.data())
def test_a_damaged_cell_counts_as_not_done(data):
    with tempfile.TemporaryDirectory() as root:
        folder = Path(root) / "p"
        with Spool.open(folder, RUN) as spool:
            spool.write(0, CELL)
            spool.write(1, CELL)
        path = folder / "cell-00000001.zst"
        content = bytearray(path.read_bytes())
        where = data.draw(st.integers(0, len(content) - 1))
        if data.draw(st.booleans()):
            del content[where:]
        else:
            content[where] ^= data.draw(st.integers(1, 255))
        path.write_bytes(content)
        with Spool.open(folder, RUN, resume=True) as spool:
            assert spool.done == {0}
            with pytest.raises(OutputError, match="is damaged"):
                spool.read(1)
            spool.write(1, CELL)
            np.testing.assert_array_equal(spool.read(1)["labels"], CELL["labels"])


def test_half_written_cells_are_ignored_and_removed_in_the_end(folder):
    with Spool.open(folder, RUN) as spool:
        spool.write(0, CELL)
    (folder / "cell-00000001.part").write_bytes(b"GSC1")
    with Spool.open(folder, RUN, resume=True) as spool:
        assert spool.done == {0}
        spool.remove()
    assert not folder.exists()


def test_a_failing_write_leaves_no_cell(folder, monkeypatch):
    with Spool.open(folder, RUN) as spool:
        spool.write(0, CELL)
        before = names(folder)

        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module.os, "fsync", full)
        with pytest.raises(OutputError, match="No space left on device"):
            spool.write(1, CELL)
        assert names(folder) == before
        assert spool.done == {0}


def test_one_owner_at_a_time(folder):
    with Spool.open(folder, RUN) as spool:
        spool.write(0, CELL)
        for flags in ({}, {"resume": True}, {"overwrite": True}):
            with pytest.raises(
                OutputExistsError, match=rf"in use by another run \(process {os.getpid()} on"
            ) as refused:
                Spool.open(folder, RUN, **flags)
            assert refused.value.exit_code == 2
        assert spool.read(0)
    with Spool.open(folder, RUN, resume=True) as spool:
        assert spool.done == {0}


def test_another_process_is_kept_out_before_the_first_cell_too(folder):
    code = "import sys; from pathlib import Path; from geoseg.spool import Spool; Spool.open(Path(sys.argv[1]), {})"
    with Spool.open(folder, RUN):
        other = subprocess.run([sys.executable, "-c", code, folder], capture_output=True, text=True, timeout=60)
        assert other.returncode == 1
        assert "in use by another run" in other.stderr
        assert names(folder) == ["lock", "run.json"]
    assert not folder.exists()


def test_a_lock_left_by_a_killed_process_is_no_lock(folder):
    code = (
        "import os, signal, sys, numpy; from pathlib import Path; from geoseg.spool import Spool\n"
        "spool = Spool.open(Path(sys.argv[1]), {'a': 1}); spool.write(3, {'labels': numpy.zeros((2, 2), 'uint8')})\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, folder], timeout=60).returncode == -9
    assert "lock" in names(folder)
    with Spool.open(folder, {"a": 1}, resume=True) as spool:
        assert spool.done == {3}


def test_an_empty_spool_leaves_nothing(folder):
    with Spool.open(folder, RUN):
        assert folder.is_dir()
    assert not folder.exists()
    with pytest.raises(KeyboardInterrupt), Spool.open(folder, RUN):
        raise KeyboardInterrupt
    assert not folder.exists()


@pytest.mark.parametrize("flags", [{}, {"resume": True}, {"overwrite": True}])
def test_a_folder_of_someone_else_is_left_alone(folder, flags):
    folder.mkdir()
    (folder / "thesis.txt").write_text("years of work")
    with pytest.raises(OutputExistsError, match=r"thesis\.txt"):
        Spool.open(folder, RUN, **flags)
    assert names(folder) == ["thesis.txt"]


def test_a_file_in_the_place_of_the_folder(folder):
    folder.write_text("mine")
    with pytest.raises(OutputError, match="cannot be written"):
        Spool.open(folder, RUN)
    assert folder.read_text() == "mine"
