"""The checkpoint file: what goes in comes out, every flipped bit is noticed, and nothing foreign is let in."""

import hashlib
import io
import json
import os
import pickle
import struct
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from checkpoints import write_checkpoint
from pydantic import ValidationError
from safetensors.torch import save as dump_tensors

from geoseg import builtin
from geoseg import checkpoint as module
from geoseg.checkpoint import (
    ClassInfo,
    Head,
    Header,
    builtin_models,
    load_checkpoint,
    resolve_model,
    save_checkpoint,
)
from geoseg.errors import CheckpointError, OutputError, UsageError
from geoseg.models import build_model

CLASSES = tuple(ClassInfo(name=name, color="#000000") for name in ("land", "building", "road"))
MANY = Head(classes=tuple(ClassInfo(name=str(index), color="#000000") for index in range(255)))


def a_model(norm="batch"):
    torch.manual_seed(0)
    model = build_model("unet", in_channels=3, classes=2, width=1, depth=1, norm=norm)
    with torch.no_grad():
        model(torch.randn(2, 3, 8, 8))
    return model.eval()


def a_header(**changes):
    fields = {
        "arch": "unet",
        "arch_args": {"width": 1, "depth": 1},
        "bands": ("red", "green", "blue"),
        "mean": (100.0, 90.5, 80.0),
        "std": (40.0, 41.0, 42.0),
        "value_range": ((0.0, 255.0),) * 3,
        "dtype": "uint8",
        "gsd": (0.1, 0.5, 0.3),
        "heads": {
            "main": Head(classes=(ClassInfo(name="land", color="#000000"), ClassInfo(name="wäter", color="#0000ff")))
        },
        "cell_side": 64,
        "stride": 2,
        "receptive_radius": 9,
        "licence": "CC BY 4.0",
        "origin": "© somebody",
        "metrics": {"iou": {"wäter": 0.5, "land": None}},
    }
    return Header(**fields | changes)


@pytest.fixture
def saved(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, a_header(), a_model().state_dict())
    return path


def parts(path: Path) -> tuple[dict, bytes]:
    """The outer JSON and the tensors' bytes of a safetensors file."""
    content = path.read_bytes()
    stop = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:stop]), content[stop:]


def join(outer: dict, data: bytes) -> bytes:
    text = json.dumps(outer).encode()
    return struct.pack("<Q", len(text)) + text + data


def with_header(path: Path, edit) -> None:
    """Change the geoseg header in place and give it a sha256 that fits, as somebody who knows the format could."""
    outer, data = parts(path)
    fields = json.loads(outer["__metadata__"]["geoseg"])
    edit(fields)
    tensors = module.parse_tensors(path.read_bytes())
    fields["sha256"] = module._digest(fields, tensors)
    outer["__metadata__"]["geoseg"] = json.dumps(fields)
    path.write_bytes(join(outer, data))


class TestRoundTrip:
    def test_header_and_tensors(self, saved):
        back = load_checkpoint(saved)
        expected = a_header().model_copy(
            update={"sha256": back.header.sha256, "geoseg_version": back.header.geoseg_version}
        )
        assert back.header == expected
        assert back.header.gsd.best == 0.3
        assert [item.name for item in back.header.classes] == ["land", "wäter"]
        for name, tensor in a_model().state_dict().items():
            assert torch.allclose(back.state_dict[name], tensor, rtol=1e-3, atol=1e-4), name
            assert back.state_dict[name].dtype == (torch.float32 if tensor.is_floating_point() else tensor.dtype)

    def test_float32_is_exact_and_gives_the_same_logits(self, tmp_path):
        model, path = a_model(), tmp_path / "m.safetensors"
        save_checkpoint(path, a_header(), model.state_dict(), half=False)
        again = load_checkpoint(path).build()
        image = torch.randn(1, 3, 9, 9)
        assert not again.training
        assert torch.equal(again(image), model(image))

    def test_loaded_and_saved_again_gives_the_same_bytes(self, saved, tmp_path):
        back = load_checkpoint(saved)
        save_checkpoint(tmp_path / "again.safetensors", back.header, back.state_dict)
        assert (tmp_path / "again.safetensors").read_bytes() == saved.read_bytes()

    def test_bytes_do_not_depend_on_order_layout_or_process(self, saved, tmp_path):
        state_dict = {
            name: tensor.to(memory_format=torch.channels_last) if tensor.ndim == 4 else tensor
            for name, tensor in reversed(a_model().state_dict().items())
        }
        path = tmp_path / "other.safetensors"
        save_checkpoint(path, a_header(metrics={"iou": {"land": None, "wäter": 0.5}}), state_dict)
        assert path.read_bytes() == saved.read_bytes()
        program = (
            "from pathlib import Path; from geoseg.checkpoint import *; import sys\n"
            "c = load_checkpoint(sys.argv[1]); save_checkpoint(sys.argv[2], c.header, c.state_dict)"
        )
        environment = os.environ | {"PYTHONHASHSEED": "77", "PYTHONPATH": str(Path(module.__file__).parents[1])}
        subprocess.run([sys.executable, "-c", program, saved, path], check=True, env=environment, timeout=120)
        assert path.read_bytes() == saved.read_bytes()

    def test_no_path_and_no_time_in_the_file(self, saved, tmp_path):
        assert str(tmp_path).encode() not in saved.read_bytes()

    def test_build_leaves_the_state_dict_alone(self, saved):
        back = load_checkpoint(saved)
        with torch.no_grad():
            back.build().head.weight.fill_(9)
        assert not torch.equal(back.state_dict["head.weight"], torch.full_like(back.state_dict["head.weight"], 9))


class TestHalf:
    def stored(self, path):
        return module.parse_tensors(path.read_bytes())

    def test_what_is_stored_as_what(self, saved):
        kinds = {name.rpartition(".")[2]: tensor.dtype for name, tensor in self.stored(saved).items()}
        assert kinds == {
            "weight": torch.float16,
            "bias": torch.float16,
            "running_mean": torch.float32,
            "running_var": torch.float32,
            "num_batches_tracked": torch.int64,
        }

    def test_small_variances_survive(self, tmp_path):
        state_dict = a_model().state_dict()
        state_dict["encoder.levels.0.1.running_var"].fill_(1e-9)
        save_checkpoint(tmp_path / "m.safetensors", a_header(), state_dict)
        assert load_checkpoint(tmp_path / "m.safetensors").state_dict["encoder.levels.0.1.running_var"] == 1e-9

    def test_what_float16_cannot_hold_stays_float32(self, tmp_path):
        state_dict = a_model().state_dict()
        state_dict["head.bias"][:] = torch.tensor([70_000.0, 1.0])
        save_checkpoint(tmp_path / "m.safetensors", a_header(), state_dict)
        assert self.stored(tmp_path / "m.safetensors")["head.bias"].dtype == torch.float32
        assert load_checkpoint(tmp_path / "m.safetensors").state_dict["head.bias"][0] == 70_000


class TestDamage:
    def test_every_flipped_bit_is_noticed(self, saved, tmp_path):
        """Each byte of the start, and some of the rest: refused, or (white space in the JSON) harmless."""
        content, original = saved.read_bytes(), load_checkpoint(saved)
        damaged = tmp_path / "damaged.safetensors"
        refused = harmless = 0
        generator = torch.Generator().manual_seed(1)
        places = [*range(16), *torch.randint(16, len(content), (400,), generator=generator).tolist(), len(content) - 1]
        for place in places:
            bit = 1 << int(torch.randint(0, 8, (), generator=generator))
            damaged.write_bytes(content[:place] + bytes([content[place] ^ bit]) + content[place + 1 :])
            try:
                back = load_checkpoint(damaged)
            except CheckpointError as err:
                refused += str(damaged) in str(err) and "\n" not in str(err)
            else:
                harmless += 1
                assert back.header == original.header
                assert all(torch.equal(back.state_dict[name], t) for name, t in original.state_dict.items())
        assert refused + harmless == len(places)
        assert harmless < 0.05 * len(places)

    def test_cut_short_anywhere(self, saved, tmp_path):
        content = saved.read_bytes()
        damaged = tmp_path / "cut.safetensors"
        for length in [0, 1, 7, 8, 9, 100, len(content) // 2, len(content) - 1]:
            damaged.write_bytes(content[:length])
            with pytest.raises(CheckpointError, match=r"empty|cut short|no geoseg checkpoint"):
                load_checkpoint(damaged)
        damaged.write_bytes(content + b"x")
        with pytest.raises(CheckpointError):
            load_checkpoint(damaged)

    def test_swapped_tensors_are_noticed(self, saved):
        outer, data = parts(saved)
        one, other = "encoder.levels.0.0.weight", "decoder.levels.0.3.weight"
        assert outer[one]["shape"] != outer[other]["shape"]
        one, other = "encoder.levels.0.1.running_mean", "encoder.levels.0.1.running_var"
        outer[one], outer[other] = outer[other], outer[one]
        saved.write_bytes(join(outer, data))
        with pytest.raises(CheckpointError, match="sha256"):
            load_checkpoint(saved)

    def test_edited_header_is_noticed(self, saved):
        content = saved.read_bytes()
        saved.write_bytes(content.replace(b"CC BY 4.0", b"CC0    1.0"[:9]))
        with pytest.raises(CheckpointError, match="sha256"):
            load_checkpoint(saved)

    @pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
    def test_non_finite_numbers_are_refused_by_name(self, tmp_path, value):
        state_dict = a_model().state_dict()
        state_dict["decoder.ups.0.bias"][0] = value
        path = tmp_path / "m.safetensors"
        with pytest.raises(CheckpointError, match=r"decoder\.ups\.0\.bias holds NaN or infinity"):
            save_checkpoint(path, a_header(), state_dict)
        assert list(tmp_path.iterdir()) == []
        fields = a_header().model_dump(mode="json")
        fields["sha256"] = module._digest(fields, state_dict)
        path.write_bytes(dump_tensors(state_dict, metadata={"geoseg": json.dumps(fields)}))
        with pytest.raises(CheckpointError, match=r"decoder\.ups\.0\.bias holds NaN or infinity"):
            load_checkpoint(path)


class Bomb:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.touch, (self.marker,)


class TestForeign:
    @pytest.mark.parametrize(
        ("content", "kind"),
        [
            (b"", "is empty"),
            (b"hello", "text"),
            (b"def model():\n    return 42\n", "text"),
            (b"<!DOCTYPE html><html><body>404 not found</body></html>", "HTML"),
            (b"\x08\x07\x12\x07pytorch\x1a\x052.1.0:\x80\x01", "ONNX"),
            (b"PK\x03\x04" + bytes(60), "zip archive"),
            (b"version https://git-lfs.github.com/spec/v1\noid sha256:abc\nsize 12\n", "Git LFS pointer"),
            (b"\x89HDF\r\n\x1a\n" + bytes(40), "HDF5"),
            (b"II*\x00" + bytes(range(100)), "unknown kind"),
            (struct.pack("<Q", 2**60) + b'{"a":1}', "damaged or cut short"),
            (struct.pack("<Q", 2**64 - 1), "unknown kind"),
            (struct.pack("<Q", 4) + b"nope" + bytes(50), "unknown kind"),
            (struct.pack("<Q", 2) + b"{}", "another program"),
            (struct.pack("<Q", 2) + b"[]", "no geoseg checkpoint"),
            (struct.pack("<Q", 20000) + b"[" * 20000, "no geoseg checkpoint"),
            (join({"__metadata__": []}, b""), "another program"),
            (join({"__metadata__": {"geoseg": 3}}, b""), "another program"),
            (join({"__metadata__": {"geoseg": "3"}}, b""), "no JSON object"),
            (join({"__metadata__": {"geoseg": "[" * 9000}}, b""), "no JSON object"),
            (join({"__metadata__": {"geoseg": "{" + '"a":' + "9" * 9000 + "}"}}, b""), "no JSON object"),
            (join({"__metadata__": {"geoseg": '{"format": 1, "arch": "\\ud800"}'}}, b""), "header is wrong"),
            (join({"__metadata__": {"geoseg": '{"format": 2}'}}, b""), "format 2. Expected format 1. Update"),
        ],
    )
    def test_refused_in_one_line(self, tmp_path, content, kind):
        path = tmp_path / "model.safetensors"
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=kind) as caught:
            load_checkpoint(path)
        assert str(path) in str(caught.value)
        assert "\n" not in str(caught.value)
        assert "Expected" in str(caught.value)

    @pytest.mark.parametrize("new_zip", [True, False])
    def test_pytorch_files_are_never_unpickled(self, tmp_path, new_zip):
        marker, path = tmp_path / "executed", tmp_path / "model.safetensors"
        torch.save({"x": Bomb(marker)}, path, _use_new_zipfile_serialization=new_zip)
        with pytest.raises(CheckpointError, match="zip archive" if new_zip else "pickle"):
            load_checkpoint(path)
        path.write_bytes(pickle.dumps(Bomb(marker)))
        with pytest.raises(CheckpointError, match="pickle"):
            load_checkpoint(path)
        assert not marker.exists()
        pickle.load(io.BytesIO(path.read_bytes()))
        assert marker.exists()

    def test_safetensors_of_another_program(self, tmp_path):
        path = tmp_path / "model.safetensors"
        path.write_bytes(dump_tensors(a_model().state_dict(), metadata={"format": "pt"}))
        with pytest.raises(CheckpointError, match="another program"):
            load_checkpoint(path)

    def test_huge_claims_allocate_nothing(self, tmp_path):
        path = tmp_path / "model.safetensors"
        outer = {"__metadata__": {"geoseg": a_header().model_dump_json()}}
        outer["t"] = {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}
        path.write_bytes(join(outer, b"0123"))
        with pytest.raises(CheckpointError, match="damaged"):
            load_checkpoint(path)
        with path.open("r+b") as file:
            file.truncate(5 << 30)  # sparse
        with pytest.raises(CheckpointError, match="5 GiB"):
            load_checkpoint(path)

    @pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no FIFOs here")
    @pytest.mark.timeout(20)
    def test_what_is_no_file(self, tmp_path):
        os.mkfifo(tmp_path / "fifo.safetensors")
        (tmp_path / "loop").symlink_to(tmp_path / "loop")
        for name, message in [
            ("fifo.safetensors", "not a regular file"),
            ("/dev/zero", "not a regular file"),
            ("missing.safetensors", "cannot be read"),
            ("loop", "cannot be read"),
            ("x" * 300, "cannot be read"),
            ("a\0b", "cannot be read"),
            ("", "is a folder"),
        ]:
            with pytest.raises(CheckpointError, match=message):
                load_checkpoint(tmp_path / name)

    def test_run_folder_names_the_file_inside(self, saved):
        with pytest.raises(CheckpointError, match=r"is a folder\. Try .*model\.safetensors"):
            load_checkpoint(saved.parent)


class TestHeader:
    @pytest.mark.parametrize(
        ("key", "value", "message"),
        [
            ("format", "1", "format"),
            ("surprise", 1, "surprise: Extra inputs"),
            ("bands", [], "bands"),
            ("bands", ["red", "green"], "2 bands, but mean has 3"),
            ("bands", "rgb", "bands"),
            ("mean", [1, 2, "3"], "mean"),
            ("std", [1, 2, 0], "std.2"),
            ("value_range", [[0, 255], [255, 0], [0, 255]], "downwards"),
            ("gsd", [0.5, 0.1, 0.3], "gsd"),
            ("gsd", [0, 1, 0.5], "gsd"),
            ("heads", {}, "heads"),
            ("cell_side", 63, "cell_side 63 is no multiple of stride 2"),
            ("cell_side", 0, "cell_side"),
            ("temperature", 0, "temperature"),
            ("thresholds", {"building": 2}, "thresholds"),
            ("sha256", "zz", "sha256"),
            ("arch", "vnet", "architecture='vnet' is unknown"),
            ("arch_args", {"width": 1, "depth": 1, "colour": "red"}, "colour"),
            ("arch_args", {"width": 10**9, "depth": 1}, "width=1000000000 is out of range"),
            ("arch_args", {"width": 2, "depth": 1}, "has shape .* needs shape"),
            ("arch_args", {"width": 1, "depth": 2}, "needs shape"),
            ("arch_args", {"width": 1, "depth": 1, "norm": "none"}, "needs none|has none"),
            ("stride", 4, "stride=4, but that of unet is 2"),
            ("bands", ["a\x1b[31m", "b", "c"], "printable"),
        ],
    )
    def test_wrong_fields_are_refused_by_name(self, saved, key, value, message):
        outer, data = parts(saved)
        fields = json.loads(outer["__metadata__"]["geoseg"])
        if key != "sha256":
            with_header(saved, lambda fields: fields.update({key: value}))
        else:
            fields[key] = value
            outer["__metadata__"]["geoseg"] = json.dumps(fields)
            saved.write_bytes(join(outer, data))
        with pytest.raises(CheckpointError, match=message) as caught:
            load_checkpoint(saved)
        assert str(saved) in str(caught.value)
        assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "text",
        [b'"temperature":NaN', b'"temperature":1e999', b'"temperature":-Infinity', b'"metrics":{"iou":NaN}'],
    )
    def test_numbers_that_are_none(self, saved, text):
        outer, data = parts(saved)
        inner = outer["__metadata__"]["geoseg"]
        key = text.split(b":")[0].decode()
        old = '"temperature":1.0' if "temp" in key else inner[inner.index('"metrics"') : inner.index(',"origin"')]
        assert old in inner
        outer["__metadata__"]["geoseg"] = inner.replace(old, text.decode())
        saved.write_bytes(join(outer, data))
        with pytest.raises(CheckpointError):
            load_checkpoint(saved)

    @pytest.mark.parametrize("missing", ["arch", "bands", "heads", "cell_side", "stride", "receptive_radius"])
    def test_missing_fields(self, saved, missing):
        with_header(saved, lambda fields: fields.pop(missing))
        with pytest.raises(CheckpointError, match=f"{missing}: Field required"):
            load_checkpoint(saved)

    def test_fields_with_defaults_that_a_later_version_adds_do_not_break_the_sum(self, saved):
        """The sha256 is of the header as written, not of the fields this version knows."""
        with_header(saved, lambda fields: fields.pop("thresholds"))
        assert load_checkpoint(saved).header.thresholds == {}

    def test_frozen(self):
        with pytest.raises(ValidationError):
            a_header().stride = 4

    @pytest.mark.parametrize("names", [("a",), ("a", "a"), tuple(map(str, range(256)))])
    def test_classes(self, names):
        with pytest.raises(ValidationError):
            Head(classes=tuple(ClassInfo(name=name, color="#123456") for name in names))

    @pytest.mark.parametrize("color", ["red", "#12345", "#1234567", "#12345g", "#123456\n"])
    def test_colors(self, color):
        with pytest.raises(ValidationError):
            ClassInfo(name="a", color=color)

    def test_without_georeference(self, tmp_path):
        save_checkpoint(tmp_path / "m.safetensors", a_header(gsd=None), a_model().state_dict())
        assert load_checkpoint(tmp_path / "m.safetensors").header.gsd is None


class TestSaving:
    def test_tensors_of_another_network_are_refused(self, tmp_path):
        with pytest.raises(CheckpointError, match="tensor"):
            save_checkpoint(tmp_path / "m.safetensors", a_header(), a_model(norm="none").state_dict())
        assert list(tmp_path.iterdir()) == []

    def test_metrics_that_are_no_numbers_are_refused(self, tmp_path):
        header = a_header().model_copy(update={"metrics": {"iou": float("nan")}})
        with pytest.raises(CheckpointError, match="cannot be saved"):
            save_checkpoint(tmp_path / "m.safetensors", header, a_model().state_dict())

    def test_replaces_only_when_complete(self, saved, monkeypatch):
        before = saved.read_bytes()

        def full(_):
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(module.os, "fsync", full)
        with pytest.raises(OutputError, match="No space left"):
            save_checkpoint(saved, a_header(licence="other"), a_model().state_dict())
        assert saved.read_bytes() == before
        assert [path.name for path in saved.parent.iterdir()] == [saved.name]

    def test_the_old_file_is_never_written_into(self, saved, tmp_path):
        before = saved.read_bytes()
        (tmp_path / "same file").hardlink_to(saved)
        save_checkpoint(saved, a_header(licence="other"), a_model().state_dict())
        assert (tmp_path / "same file").read_bytes() == before
        assert load_checkpoint(saved).header.licence == "other"

    def test_folder_missing(self, tmp_path):
        with pytest.raises(OutputError, match="cannot be written"):
            save_checkpoint(tmp_path / "none" / "m.safetensors", a_header(), a_model().state_dict())

    def test_mode_follows_the_umask(self, tmp_path):
        old = os.umask(0o027)
        try:
            save_checkpoint(tmp_path / "m.safetensors", a_header(), a_model().state_dict())
        finally:
            os.umask(old)
        assert (tmp_path / "m.safetensors").stat().st_mode & 0o777 == 0o640

    def test_sha256_is_of_tensors_and_header(self, saved):
        """Recomputed from the file's bytes, without geoseg's code for it."""
        outer, data = parts(saved)
        fields = json.loads(outer.pop("__metadata__")["geoseg"])
        claimed = fields.pop("sha256")
        text = json.dumps(fields, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
        sha256 = hashlib.sha256(text.encode())
        kinds = {"F16": "torch.float16", "F32": "torch.float32", "I64": "torch.int64"}
        for name in sorted(outer):
            start, stop = outer[name]["data_offsets"]
            sha256.update(json.dumps([name, kinds[outer[name]["dtype"]], outer[name]["shape"]]).encode())
            sha256.update(data[start:stop])
        assert sha256.hexdigest() == claimed == load_checkpoint(saved).header.sha256


class TestResolve:
    @pytest.fixture
    def shipped(self, saved, tmp_path, monkeypatch):
        folder = tmp_path / "weights"
        folder.mkdir()
        for name in ("unet", "unet-roads"):
            (folder / f"{name}.safetensors").write_bytes(saved.read_bytes())
        monkeypatch.setattr(builtin, "BUILTIN_FOLDER", folder)
        monkeypatch.chdir(tmp_path)
        return folder

    def test_builtin(self, shipped):
        assert list(builtin_models()) == ["unet", "unet-roads"]
        assert resolve_model("unet") == shipped / "unet.safetensors"

    def test_builtin_name_wins_over_a_file(self, shipped):
        Path("unet").write_text("a file of that name")
        assert resolve_model("unet") == shipped / "unet.safetensors"
        assert resolve_model("./unet") == Path("unet")

    def test_path(self, shipped, saved):
        assert resolve_model(saved) == saved
        assert resolve_model("model.safetensors") == Path("model.safetensors")

    @pytest.mark.parametrize("text", ["no/such", "no.safetensors", "./unett", "/abs"])
    def test_missing_path(self, shipped, text):
        with pytest.raises(UsageError, match=r"does not exist\. .*unet, unet-roads"):
            resolve_model(text)

    def test_unknown_name(self, shipped):
        with pytest.raises(
            UsageError, match=r"'unet_roads' is unknown\. Did you mean 'unet-roads'\?.*\(unet, unet-roads\)"
        ):
            resolve_model("unet_roads")
        with pytest.raises(UsageError, match=r"'zebra' is unknown\. Expected a checkpoint"):
            resolve_model("zebra")

    def test_empty_name(self, shipped):
        with pytest.raises(UsageError):
            resolve_model("")

    def test_architecture_without_a_trained_model(self, shipped):
        (shipped / "unet.safetensors").unlink()
        with pytest.raises(UsageError, match=r"'unet' is an architecture.*\(unet-roads\).*geoseg train .* --arch unet"):
            resolve_model("unet")

    def test_nothing_shipped(self, shipped, monkeypatch):
        monkeypatch.setattr(builtin, "BUILTIN_FOLDER", shipped / "absent")
        assert builtin_models() == {}
        with pytest.raises(UsageError, match="none in this installation"):
            resolve_model("unet")


def test_heads_are_in_the_order_of_their_names_before_and_after(tmp_path):
    """The channels of the logits depend on it, and JSON keeps no order."""
    heads = {"b": Head(task="regression"), "a": Head(classes=CLASSES)}
    path = write_checkpoint(tmp_path / "m.safetensors", heads=heads)
    header = load_checkpoint(path).header
    assert list(header.heads) == ["a", "b"]
    assert list(Header(**(header.model_dump() | {"heads": heads})).heads) == ["a", "b"]
    assert (header.channels, header.classes) == (4, CLASSES)


@pytest.mark.parametrize(
    "wrong",
    [
        {"task": "multiclass", "classes": CLASSES[:1]},
        {"task": "binary", "classes": CLASSES},
        {"task": "multilabel"},
        {"task": "regression", "classes": CLASSES},
        {"task": "regression", "scale": 0.0},
        {"task": "panoptic"},
        {"classes": (CLASSES[0], CLASSES[0])},
    ],
)
def test_heads_that_make_no_sense(wrong):
    with pytest.raises(ValueError):
        Head(**wrong)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"arch_args": {"width": 1, "depth": 1, "classes": 3}}, "takes 'classes' from bands and classes"),
        ({"arch_args": {"width": 1, "depth": 1, "arch": "x"}}, "has no argument 'arch'"),
        ({"receptive_radius": None}, "receptive_radius=None cannot be"),
        (
            {"arch_args": {"width": 1, "depth": 1, "padding": "valid"}, "receptive_radius": 7},
            "receptive_radius=7 cannot",
        ),
    ],
)
def test_what_a_header_claims_is_checked_against_the_network(tmp_path, changes, says):
    with pytest.raises(CheckpointError, match=says):
        save_checkpoint(tmp_path / "m.safetensors", a_header(**changes), a_model().state_dict())


@pytest.mark.parametrize(
    "changes",
    [
        {"thresholds": {"wäter": 0.3}},  # of several classes the most probable one is taken
        {"thresholds": {"nothing": 0.3}},
        {"heads": {"A": Head(task="regression"), "a": Head(task="regression")}},
        {"receptive_radius": 1 << 14},
        {"cell_side": 1 << 16},
        {"heads": {f"h{index}": MANY for index in range(5)}},
    ],
)
def test_headers_that_make_no_sense(changes):
    with pytest.raises(ValueError):
        a_header(**changes)
