"""Where `initaudit fix` is told to write: no file is replaced that nobody meant."""

import json
from pathlib import Path

import onnx
import pytest

from tests.test_cli import refused
from tests.test_cli_fix import cli, files

__all__ = ["cli"]


def data_beside() -> None:
    """Write the broken net with its weights in a file of their own."""
    onnx.save_model(onnx.load("broken.onnx"), "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0)


def test_force_writes_over_a_manifest_and_code_but_not_without_it(cli):
    for name, option in (("m.json", "--manifest"), ("init.py", "--emit-code")):
        Path(name).write_text("mine")
        assert "--force" in refused(cli("fix", "broken.onnx", option, name))
        assert Path(name).read_text() == "mine"
        assert cli("fix", "broken.onnx", option, name, "--force")[0] == 0
        assert "initaudit" in Path(name).read_text()


def test_a_pipe_or_a_device_takes_a_manifest(cli, tmp_path):
    assert cli("fix", "broken.onnx", "--manifest", "/dev/null")[0] == 0


def test_a_manifest_never_lands_on_data_of_the_model(cli):
    data_beside()
    before = Path("m.data").read_bytes()
    for options in (["--force"], ["--force", "--in-place"], ["--force", "--scheme", "he", "--layers", "head"]):
        assert "of the model" in refused(cli("fix", "m.onnx", "--manifest", "m.data", *options))
    assert Path("m.data").read_bytes() == before


def test_a_manifest_never_lands_on_data_of_the_result(cli):
    data_beside()
    before = files()
    assert "repaired model" in refused(cli("fix", "m.onnx", "-o", "q.onnx", "--manifest", "q.onnx.data"))
    assert files() == before
    assert cli("fix", "m.onnx", "-o", "q.onnx", "--manifest", "q.json")[0] == 0
    assert "q.onnx.data" in json.loads(Path("q.json").read_text())["output"]["sha256"]


def test_a_manifest_never_lands_in_the_folder_that_is_written(cli):
    Path("net").mkdir()
    Path("faults.safetensors").rename("net/model.safetensors")
    Path("net.fixed").mkdir()  # an empty folder is no obstacle
    assert "repaired model goes" in refused(cli("fix", "net", "--manifest", "net.fixed/m.json"))
    assert list(Path("net.fixed").iterdir()) == []
    assert cli("fix", "net", "--in-place", "--manifest", "net/m.json")[0] == 0  # a new file beside the others


def test_data_that_change_while_the_model_is_audited_are_refused(cli, monkeypatch):
    from initaudit.repair import fixing

    data_beside()
    first = fixing.Judge.first

    def meddled(self, path):
        report = first(self, path)
        Path("m.data").write_bytes(Path("m.data").read_bytes()[::-1])
        return report

    monkeypatch.setattr(fixing.Judge, "first", meddled)
    before = files()
    assert "changed while it was being repaired" in refused(cli("fix", "m.onnx"))
    assert files() == before


@pytest.mark.parametrize(("source", "target"), [("faults.pt", "x.onnx"), ("faults.pt", "x.safetensors"),
                         ("broken.onnx", "x.pt"), ("faults.safetensors", "x.PTH")])  # fmt: skip
def test_a_name_that_promises_another_format_is_refused(cli, source, target):
    assert "keeps the format" in refused(cli("fix", source, "-o", target))
    assert not Path(target).exists()


@pytest.mark.parametrize("target", ["x.pth", "x.bin", "x", "x.ckpt", "x.weights"])
def test_a_name_that_promises_no_other_format_will_do(cli, target):
    assert cli("fix", "faults.pt", "-o", target)[0] == 0
    assert Path(target).exists()


@pytest.mark.parametrize("given", ["model.safetensors", ""])
def test_nothing_is_added_to_a_cache_unless_it_is_named(cli, given):
    cache = Path("models--a--b")
    snapshot = cache / "snapshots" / "abc"
    snapshot.mkdir(parents=True)
    (cache / "blobs").mkdir()
    Path("faults.safetensors").rename(cache / "blobs" / "123")
    (snapshot / "model.safetensors").symlink_to("../../blobs/123")
    before = sorted(cache.rglob("*"))
    assert "-o" in refused(cli("fix", snapshot / given))
    assert cli("fix", snapshot / given, "--dry-run")[0] == 1
    assert cli("fix", snapshot / given, "-o", "mine.safetensors" if given else "mine")[0] == 0
    assert sorted(cache.rglob("*")) == before
