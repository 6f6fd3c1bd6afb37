"""The first use says that it takes longer."""

import importlib.util
import logging

from geoseg.vectors.compiled import is_compiled, tell_of_compiling


def test_a_kernel_is_compiled_once_it_was_used(tmp_path, caplog):
    (tmp_path / "kernels.py").write_text(
        "from numba import njit\n\n@njit(cache=True)\ndef twice(x):\n    return 2 * x\n", encoding="utf-8"
    )
    spec = importlib.util.spec_from_file_location("kernels", tmp_path / "kernels.py")
    kernels = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(kernels)
    caplog.set_level(logging.INFO, "geoseg")
    assert not is_compiled(kernels.twice)
    tell_of_compiling(kernels.twice)
    assert [record.levelname for record in caplog.records] == ["NOTE"]
    assert kernels.twice(2) == 4
    assert is_compiled(kernels.twice)
    tell_of_compiling(kernels.twice)
    assert len(caplog.records) == 1


def test_a_kernel_that_is_not_kept_is_passed_over():
    assert is_compiled(print)
