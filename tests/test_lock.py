"""One process at a time in a folder, and one error for what the system refuses."""

import os
import re

import pytest

from geoseg.errors import OutputError, OutputExistsError
from geoseg.lock import LOCK, take_lock, writing_to


def test_a_second_is_refused_with_who_has_it_until_the_first_lets_go(tmp_path):
    lock = take_lock(tmp_path)
    holder = (tmp_path / LOCK).read_text()
    assert holder.startswith(f"process {os.getpid()} on ")
    with pytest.raises(OutputExistsError, match=re.escape(f"is in use by another run ({holder})")):
        take_lock(tmp_path)
    lock.close()
    take_lock(tmp_path).close()


def test_a_lock_that_was_removed_meanwhile_is_none(tmp_path, monkeypatch):
    """Between opening the file and locking it, whoever had it may have removed it: who comes next makes another."""
    from geoseg import lock as module

    real, calls = module.fcntl.flock, []

    def flock(file, kind):
        if not calls:
            (tmp_path / LOCK).unlink()
        calls.append(file)
        real(file, kind)

    monkeypatch.setattr(module.fcntl, "flock", flock)
    lock = take_lock(tmp_path)
    assert len(calls) == 2
    assert os.fstat(lock.fileno()).st_ino == (tmp_path / LOCK).stat().st_ino
    lock.close()


def test_what_the_system_refuses_is_one_error_and_ours_stay(tmp_path):
    with pytest.raises(OutputError, match=r"cannot be written \(No such file or directory\)"), writing_to(tmp_path):
        (tmp_path / "a" / "b").touch()
    with pytest.raises(OutputExistsError, match="mine"), writing_to(tmp_path):
        raise OutputExistsError("mine")
