"""The cache: decoded pixels equal what is read, whoever built them; all or nothing; shared; bounded."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from pieces import make_piece, noise_piece

from geoseg.errors import LabelsError, OutputError
from geoseg.losses import outline_distances
from geoseg.training import cache, entry, room
from geoseg.training.cache import decode, pixel_folder
from geoseg.training.ground import pixels_per_class, statistics, summary_of
from geoseg.training.samples import Samples
from geoseg.training.summary import summarise
from geoseg.windows import Window

ROOM = 1 << 30


def entries(folder):
    return sorted(path for path in folder.iterdir() if path.is_dir())


def equal(ground, piece):
    """Whether a ground is what reading the whole piece gives."""
    whole = piece.read(piece.grid.window)
    np.testing.assert_array_equal(ground.data, whole.data)
    np.testing.assert_array_equal(ground.valid, whole.valid)
    np.testing.assert_array_equal(ground.target, whole.target)
    assert ground.further.keys() == whole.further.keys()
    for name, plane in whole.further.items():
        np.testing.assert_array_equal(ground.further[name], plane)
    assert ground.data.dtype == whole.data.dtype
    return True


@st.composite
def some_pieces(draw):
    """Pieces of one run: any size, equal dtype, bands and further heads, with NaN where there are floats."""
    dtype = np.dtype(draw(st.sampled_from(["u1", "u2", "i2", "f4", "f8"])))
    bands, heads = draw(st.integers(1, 4)), draw(st.sampled_from([{}, {"height": 1}, {"height": 1, "roofs": 3}]))
    found = []
    for number in range(draw(st.integers(1, 4))):
        shape = draw(st.tuples(st.integers(1, 30), st.integers(1, 30)))
        rng = np.random.default_rng(draw(st.integers(0, 99)))
        data = rng.integers(0, 200, (bands, *shape)).astype(dtype)
        if dtype.kind == "f":
            data[rng.random(data.shape) < 0.1] = np.nan
        target = rng.choice(np.array([0, 1, 2, 255], np.uint8), shape)
        further = {head: rng.choice(np.float32([0, 1, np.nan, 3.5]), (many, *shape)) for head, many in heads.items()}
        source = draw(st.sampled_from(["one", "two"]))
        valid = rng.random(shape) < 0.9
        piece = make_piece(
            data, target, name=f"p{number}", valid=valid, further=further, source=source, known=(0, 1, 2)
        )
        found.append(piece)
    return found


class TestPixels:
    @given(pieces=some_pieces(), rows=st.integers(1, 9), distances=st.sampled_from([0, 3]))
    def test_equal_a_direct_read_however_they_are_had(self, tmp_path_factory, pieces, rows, distances):
        folder = tmp_path_factory.mktemp("cache")
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(entry, "_STRIP_BYTES", 1)
            patched.setattr(entry, "_LEAST_ROWS", rows)
            built, mapped = (decode(pieces, folder, ROOM, distances) for _ in range(2))
            memory = decode(pieces, None, 0, distances)
        assert len(entries(folder)) == len({piece.source for piece in pieces})
        for grounds in (built, mapped, memory):
            for ground, piece in zip(grounds, pieces, strict=True):
                assert equal(ground, piece)
                if distances:
                    np.testing.assert_array_equal(ground.distances, outline_distances(ground.target, piece.known, 3))
        for one, other in zip(built, memory, strict=True):
            assert_same_summary(one.summary, other.summary)

    def test_all_that_a_piece_says_of_itself_comes_along(self, tmp_path):
        piece = replace(noise_piece(), gsd=0.3, zoom=(0.5, 2.0), share=0.25)
        (ground,) = decode([piece], tmp_path, ROOM)
        assert (ground.name, ground.source, ground.known) == (piece.name, piece.source, piece.known)
        assert (ground.gsd, ground.zoom, ground.share, ground.grid) == (0.3, (0.5, 2.0), 0.25, piece.grid)

    def test_they_cannot_be_written_but_tensors_are_made_of_them(self, tmp_path, recwarn):
        (ground,) = decode([noise_piece()], tmp_path, ROOM)
        with pytest.raises(ValueError, match="read-only"):
            ground.data[0, 0, 0] = 1
        tile = ground.reader.read(Window(row=3, col=4, height=5, width=6))
        assert torch.from_numpy(tile.data).shape == (3, 5, 6)
        Samples([ground], tile_size=16, seed=0)[0]
        assert not list(recwarn)

    def test_a_thousand_pieces_are_two_files(self, tmp_path):
        decode([noise_piece(number, side=4) for number in range(1000)], tmp_path, ROOM)
        assert len([path for path in tmp_path.rglob("*") if path.is_file()]) == 2

    def test_the_same_pixels_under_two_names_of_a_run_are_kept_once(self, tmp_path):
        first, again = noise_piece(share=1.0), noise_piece(share=0.5)
        one, other = decode([first, again], tmp_path, ROOM)
        assert (one.share, other.share) == (1.0, 0.5)
        assert np.shares_memory(one.data, other.data)


def assert_same_summary(one, other):
    np.testing.assert_array_equal(one.counts, other.counts)
    assert (one.usable, one.mean, one.square, one.low, one.high) == (
        other.usable, other.mean, other.square, other.low, other.high,
    )  # fmt: skip
    assert one.further == other.further
    assert one.positions.keys() == other.positions.keys()
    for value, where in one.positions.items():
        np.testing.assert_array_equal(where, other.positions[value])


class TestWhenItIsDecoded:
    def test_once(self, tmp_path):
        seen = []
        for _ in range(2):
            decode([noise_piece(seen=seen)], tmp_path, ROOM)
        assert len(seen) == 2  # a glance, and all of it

    def test_order_split_zoom_and_share_do_not_matter(self, tmp_path):
        decode([noise_piece(0), noise_piece(1)], tmp_path, ROOM)
        seen = []
        pieces = [noise_piece(number, seen=seen) for number in (1, 0)]
        changed = [replace(piece, split="val", zoom=(0.5, 2.0), share=3.0, gsd=1.0) for piece in pieces]
        grounds = decode(changed, tmp_path, ROOM)
        assert not seen
        assert all(equal(ground, piece) for ground, piece in zip(grounds, pieces, strict=True))

    @pytest.mark.parametrize("change", ["time", "size", "recipe", "known", "code", "gone"])
    def test_again_when_something_has_changed(self, tmp_path, monkeypatch, change):
        file = tmp_path / "scene.tif"
        file.write_bytes(b"some pixels")
        seen, more = [], {"recipe": {"bands": [1, 2, 3]}, "known": (0, 1)}
        folder = tmp_path / "cache"
        decode([noise_piece(files=(file,), **more)], folder, ROOM, 3)
        if change == "time":
            os.utime(file, ns=(0, 1))
        elif change == "size":
            stamp = file.stat().st_mtime_ns
            file.write_bytes(b"other")
            os.utime(file, ns=(stamp, stamp))
        elif change == "recipe":
            more["recipe"] = {"bands": [3, 2, 1]}
        elif change == "known":
            more["known"] = (0,)
        elif change == "code":
            monkeypatch.setattr(cache, "_code", lambda: "later")
        else:
            file.unlink()
        decode([noise_piece(files=(file,), seen=seen, **more)], folder, ROOM, 3)
        assert seen

    @pytest.mark.parametrize(
        "damage", ["cut", "longer", "empty", "bytes", "index", "index cut", "no index", "no pixels"]
    )
    def test_again_when_the_entry_is_damaged(self, tmp_path, damage, warnings):
        piece = noise_piece(side=300)
        decode([piece], tmp_path, ROOM)
        (path,) = entries(tmp_path)
        file = path / (room.INDEX if "index" in damage else room.PIXELS)
        content = file.read_bytes()
        if damage.startswith("no "):
            file.unlink()
        else:
            file.write_bytes(
                {
                    "cut": content[:-7],
                    "longer": content + b"x",
                    "empty": b"",
                    "bytes": bytes([content[0] ^ 1]) + content[1:],
                    "index": content.replace(b'"bytes"', b'"bites"'),
                    "index cut": content[: len(content) // 2],
                }[damage]
            )
        (ground,) = decode([piece], tmp_path, ROOM)
        assert equal(ground, piece)
        assert [path.name for path in tmp_path.iterdir()] == [path.name]
        assert len(warnings) == (damage != "no pixels")
        seen = []
        decode([noise_piece(side=300, seen=seen)], tmp_path, ROOM)
        assert not seen

    def test_again_with_its_checksums_when_the_index_lies(self, tmp_path, warnings):
        decode([noise_piece()], tmp_path, ROOM)
        index = entries(tmp_path)[0] / room.INDEX
        _, _, text = index.read_bytes().partition(b"\n")
        content = json.loads(text)
        content["bytes"] += 1
        index.write_bytes(b"00000000\n" + json.dumps(content).encode())
        (ground,) = decode([noise_piece()], tmp_path, ROOM)
        assert equal(ground, noise_piece())
        assert "checksum of the index" in warnings[0]


class TestNothingIsLeftBehind:
    @pytest.mark.parametrize("kind", [LabelsError, KeyboardInterrupt, RuntimeError])
    def test_by_an_error_half_way(self, tmp_path, kind):
        def fail(window):
            if window.height > 1:
                raise kind("no")
            return noise_piece().read(window)

        with pytest.raises(kind):
            decode([replace(noise_piece(), read=fail)], tmp_path, ROOM)
        assert list(tmp_path.iterdir()) == []

    def test_by_a_run_that_was_killed(self, tmp_path):
        code = (
            "import sys, os, signal; from dataclasses import replace; from pathlib import Path\n"
            "from geoseg.training.cache import decode; from tests.pieces import noise_piece\n"
            "piece = noise_piece()\n"
            "def die(window):\n"
            "    if window.height > 1: os.kill(os.getpid(), signal.SIGKILL)\n"
            "    return piece.read(window)\n"
            "decode([replace(piece, read=die)], Path(sys.argv[1]), 1 << 30)\n"
        )
        died = subprocess.run([sys.executable, "-c", code, str(tmp_path)], cwd=Path(__file__).parents[1], check=False)
        assert died.returncode == -signal.SIGKILL
        (part,) = entries(tmp_path)
        os.utime(part, (0, 0))  # long ago
        (ground,) = decode([noise_piece()], tmp_path, ROOM)
        assert equal(ground, noise_piece())
        assert [path.suffix for path in tmp_path.iterdir()] == [""]


def run(folder, number, *, limit=ROOM, seconds=0.0):
    """Another process that decodes; `tests.pieces.main`."""
    arguments = [sys.executable, "-m", "tests.pieces", str(folder), str(number), str(limit), str(seconds)]
    return subprocess.Popen(arguments, cwd=Path(__file__).parents[1], stdout=subprocess.PIPE, text=True)


class TestRunsAtOnce:
    @pytest.mark.slow
    def test_they_share_the_work(self, tmp_path):
        runs = [run(tmp_path, 7) for _ in range(2)]
        said = [process.communicate(timeout=120)[0].splitlines() for process in runs]
        assert all(process.returncode == 0 for process in runs)
        assert sum("decoding" in lines for lines in said) == 1
        assert len({lines[-1] for lines in said}) == 1
        assert len(list(tmp_path.iterdir())) == 1

    @pytest.mark.slow
    def test_when_one_is_killed_the_one_that_waits_goes_on(self, tmp_path):
        first = run(tmp_path, 7)
        assert first.stdout.readline() == "decoding\n"
        second = run(tmp_path, 7)
        first.kill()
        first.wait()
        assert "decoding" in second.communicate(timeout=120)[0]
        assert second.returncode == 0

    def test_where_files_cannot_be_locked_both_work_and_one_entry_stays(self, tmp_path, monkeypatch):
        monkeypatch.setattr(room, "fcntl", None)
        late = noise_piece()

        def slow(window):
            if window.height > 1 and not entries_before:
                entries_before.append(True)
                decode([noise_piece()], tmp_path, ROOM)  # another run is faster
            return late.read(window)

        entries_before = []
        (ground,) = decode([replace(late, read=slow)], tmp_path, ROOM)
        assert equal(ground, late)
        assert len(list(tmp_path.iterdir())) == 1

    def test_an_entry_in_use_stays_and_one_that_is_not_goes(self, tmp_path):
        user = run(tmp_path, 1, seconds=600)
        try:
            assert [user.stdout.readline() for _ in range(2)][1].startswith("1 ")
            (used,) = entries(tmp_path)
            os.utime(used / room.INDEX, (0, 0))  # used longest ago, if it were not for the user
            decode([noise_piece(2, source="2")], tmp_path, ROOM)
            (unused,) = set(entries(tmp_path)) - {used}
            size = (used / room.PIXELS).stat().st_size
            decode([noise_piece(3, source="3")], tmp_path, 2 * size)
            assert used.is_dir()
            assert not unused.is_dir()
        finally:
            user.kill()
            user.wait()
        decode([noise_piece(4, source="4")], tmp_path, 2 * size)
        assert not used.is_dir()

    def test_own_pixels_are_in_use_as_long_as_an_array_lives(self, tmp_path, warnings):
        (ground,) = decode([noise_piece(1, source="1")], tmp_path, ROOM)
        size = (entries(tmp_path)[0] / room.PIXELS).stat().st_size
        valid = ground.valid
        del ground
        (other,) = decode([noise_piece(2, source="2")], tmp_path, size)
        assert "no room" in warnings[0]
        assert "in use" in warnings[0]
        assert equal(other, noise_piece(2))
        assert valid.all()
        del valid
        decode([noise_piece(2, source="2")], tmp_path, size)
        assert len(entries(tmp_path)) == 1
        assert len(warnings) == 1


class TestRoom:
    def test_what_was_used_longest_ago_goes_first(self, tmp_path):
        paths = []
        for number in range(3):
            decode([noise_piece(number, source=str(number))], tmp_path, ROOM)
            paths += [path for path in entries(tmp_path) if path not in paths]
        for path, age in zip(paths, (30, 20, 10), strict=True):
            os.utime(path / room.INDEX, (1e9 - age, 1e9 - age))
        decode([noise_piece(0, source="0")], tmp_path, ROOM)  # used again
        size = (paths[0] / room.PIXELS).stat().st_size
        decode([noise_piece(3, source="3")], tmp_path, 3 * size)
        assert [path.is_dir() for path in paths] == [True, False, True]

    def test_nothing_goes_for_what_would_not_fit_anyway(self, tmp_path, warnings):
        decode([noise_piece(0)], tmp_path, ROOM)
        big = noise_piece(1, side=100)
        (ground,) = decode([big], tmp_path, 20_000)
        assert equal(ground, big)
        assert len(entries(tmp_path)) == 1
        assert warnings[0].startswith(f"{tmp_path} has no room for 0.1 MB of decoded pixels (it may take")

    def test_a_full_disk_is_seen_before_anything_is_decoded(self, tmp_path, monkeypatch, warnings):
        monkeypatch.setattr(room.shutil, "disk_usage", lambda folder: SimpleNamespace(free=1000))
        (ground,) = decode([noise_piece()], tmp_path, ROOM)
        assert equal(ground, noise_piece())
        assert "0.0 GB of the disk are free" in warnings[0]
        assert list(tmp_path.iterdir()) == []

    def test_a_disk_that_fills_up_half_way_leaves_nothing(self, tmp_path, monkeypatch, warnings):
        def full(*_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(room, "_to_disk", full)
        grounds = decode([noise_piece(0, source="0"), noise_piece(1, source="1")], tmp_path, ROOM)
        assert all(equal(ground, noise_piece(number)) for number, ground in enumerate(grounds))
        assert len(warnings) == 1
        assert "No space left on device" in warnings[0]
        assert list(tmp_path.iterdir()) == []

    def test_a_file_that_may_not_grow(self, tmp_path):
        code = (
            "import resource, sys; from pathlib import Path\n"
            "from geoseg.training.cache import decode; from tests.pieces import noise_piece\n"
            "resource.setrlimit(resource.RLIMIT_FSIZE, (5000, 5000))\n"
            "(ground,) = decode([noise_piece()], Path(sys.argv[1]), 1 << 30)\n"
            "print((ground.data == noise_piece().read(ground.grid.window).data).all())\n"
        )
        command = [sys.executable, "-c", code, str(tmp_path)]
        done = subprocess.run(command, cwd=Path(__file__).parents[1], capture_output=True, text=True, check=True)
        assert done.stdout == "True\n"
        assert done.stderr.count("cannot be written (File too large)") == 1
        assert list(tmp_path.iterdir()) == []

    def test_neither_disk_nor_memory(self, tmp_path, monkeypatch):
        monkeypatch.setattr(cache, "free_memory", lambda: 100)
        with pytest.raises(OutputError, match=r"some takes 0.0 MB decoded; of memory, 0.0 MB are free, and .* no room"):
            decode([noise_piece()], tmp_path, 10)
        with pytest.raises(OutputError, match="Expected room"):
            decode([noise_piece()], None, 10)

    def test_free_memory_is_told(self):
        assert room.free_memory() is None or room.free_memory() >= 0


class TestAFolderThatCannotBeWritten:
    def test_a_file_in_its_place(self, tmp_path, warnings):
        (tmp_path / "file").write_text("mine")
        for folder in (tmp_path / "file", tmp_path / "file" / "below"):
            grounds = decode([noise_piece(0, source="0"), noise_piece(1, source="1")], folder, ROOM)
            assert all(equal(ground, noise_piece(number)) for number, ground in enumerate(grounds))
        assert len(warnings) == 2
        assert "cannot be written" in warnings[0]
        assert (tmp_path / "file").read_text() == "mine"

    @pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
    def test_no_permission(self, tmp_path, warnings):
        decode([noise_piece(0, source="0")], tmp_path, ROOM)
        tmp_path.chmod(0o555)
        try:
            seen = []
            decode([noise_piece(0, source="0", seen=seen)], tmp_path, ROOM)
            assert not seen  # what is there can be read
            (ground,) = decode([noise_piece(1, source="1")], tmp_path, ROOM)
        finally:
            tmp_path.chmod(0o755)
        assert equal(ground, noise_piece(1))
        assert len(warnings) == 1

    def test_what_others_keep_there_is_left_alone(self, tmp_path):
        (tmp_path / "photos").mkdir()
        (tmp_path / "photos" / room.PIXELS).write_bytes(b"x" * 100)
        (tmp_path / "notes.part").write_text("mine")
        decode([noise_piece(0)], tmp_path, 20_000)
        assert (tmp_path / "photos" / room.PIXELS).stat().st_size == 100
        assert (tmp_path / "notes.part").read_text() == "mine"

    def test_the_usual_folder(self, tmp_path, monkeypatch):
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        assert pixel_folder(None) == tmp_path / "geoseg" / "pixels"
        assert pixel_folder(str(tmp_path / "x")) == tmp_path / "x"


class TestSummary:
    @given(
        data=arrays.arrays(
            st.sampled_from([np.uint8, np.uint16, np.float32]), (2, 13, 7), elements=st.integers(0, 250)
        ),
        split=st.integers(1, 13),
        seed=st.integers(0, 99),
    )
    def test_of_strips_is_that_of_the_whole(self, tmp_path_factory, data, split, seed):
        rng = np.random.default_rng(seed)
        target = rng.choice(np.array([0, 1, 7, 255], np.uint8), (13, 7))
        valid = rng.random((13, 7)) < 0.8
        further = {"height": rng.choice(np.float32([np.nan, 2, 2.5]), (1, 13, 7))}
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(entry, "_STRIP_BYTES", 1)
            patched.setattr(entry, "_LEAST_ROWS", split)
            (ground,) = decode([make_piece(data, target, valid=valid, further=further)], None, 0)
        found, values = ground.summary, data[:, valid].astype(np.float64)
        assert found.usable == valid.sum()
        assert found.labelled == (target != 255).sum()
        for value in range(256):
            assert found.counts[value] == (target == value).sum()
            if value < 255 and found.counts[value]:
                rows, cols = found.positions[value].T
                assert (target[rows, cols] == value).all()
                assert len(rows) == found.counts[value]  # so few that all are kept
        if valid.any():
            np.testing.assert_allclose(found.mean, values.mean(1))
            np.testing.assert_allclose(found.square, (values**2).mean(1))
            np.testing.assert_array_equal(found.low, values.min(1))
            np.testing.assert_array_equal(found.high, values.max(1))
        heights = further["height"][~np.isnan(further["height"])].astype(np.float64)
        own = found.further["height"]
        assert (own.known, own.count) == (heights.size, heights.size)
        assert own.mean == pytest.approx(heights.mean() if heights.size else 0)
        assert own.counts[0][2] == (heights == 2).sum()
        assert sum(own.counts[0]) == own.counts[0][2]

    def test_positions_are_bounded_and_spread(self):
        target = np.zeros((3000, 2000), np.uint8)
        target[2500:2510, 100:110] = 1
        found = summarise(np.zeros((1, *target.shape), np.uint8), np.ones(target.shape, bool), target, {})
        assert len(found.positions[0]) == 6_000_000 // 1024
        assert len(np.unique(found.positions[1], axis=0)) == 100
        rows, cols = found.positions[0].T
        assert abs(rows.mean() - 1500) < 50
        assert abs(cols.mean() - 1000) < 50

    def test_what_asks_for_it_gets_the_same_without_it(self, tmp_path):
        data = np.random.default_rng(0).random((2, 50, 40), dtype=np.float32)
        data[0, 3, 4] = np.nan
        target = np.random.default_rng(1).integers(0, 4, (50, 40), dtype=np.uint8)
        (ground,) = decode([make_piece(data, target, known=(0, 2, 3))], tmp_path, ROOM)
        bare = replace(ground, summary=None)
        assert statistics([ground]) == statistics([bare])
        assert pixels_per_class([ground], 4).tolist() == pixels_per_class([bare], 4).tolist()
        counted = np.bincount(target.ravel(), minlength=4)
        assert pixels_per_class([ground], 4).tolist() == [counted[0], 0, counted[2], counted[3]]
        assert_same_summary(ground.summary, summary_of(bare))

    def test_it_is_asked_and_not_the_pixels(self, tmp_path):
        (ground,) = decode([noise_piece()], tmp_path, ROOM)
        hollow = replace(ground, data=None, valid=None)
        assert statistics([hollow]) == statistics([ground])
        assert pixels_per_class([hollow], 2).sum() == 1600


@pytest.mark.slow
def test_a_thousand_cached_tiles_need_not_be_decoded(tmp_path):
    pieces = [noise_piece(number, side=64) for number in range(1000)]

    def first_sample() -> float:
        begun = time.process_time()
        grounds = decode(pieces, tmp_path, ROOM)
        statistics(grounds)
        Samples(grounds, tile_size=32, seed=0, balance=0.5)[0]
        return time.process_time() - begun

    decoding = first_sample()
    assert min(first_sample() for _ in range(3)) < decoding / 2  # the collector may run in one of them
