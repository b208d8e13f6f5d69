"""initaudit.fix on live modules and on files."""

import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import initaudit
from initaudit.errors import InitauditError, ReadError, UsageError
from initaudit.live import assigning
from initaudit.repair import fixing, manifest
from initaudit.repair.diffing import diff

FIXTURES = Path(__file__).parent.parent.parent / "fixtures"


def net(depth: int = 4, width: int = 32) -> nn.Sequential:
    torch.manual_seed(0)
    made = nn.Sequential()
    for _ in range(depth):
        made.extend([nn.Linear(width, width), nn.ReLU()])
    made.append(nn.Linear(width, 8))
    for module in made:
        if isinstance(module, nn.Linear):
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
    return made


def spoiled() -> nn.Sequential:
    made = net()
    with torch.no_grad():
        made[2].weight.zero_()
        made[4].weight[16:] = made[4].weight[:16]
    return made


def files() -> list[str]:
    return [path.name for path in Path().iterdir()]


def inputs() -> torch.Tensor:
    return torch.randn(8, 32, generator=torch.Generator().manual_seed(1))


def state(module: nn.Module) -> dict[str, torch.Tensor]:
    return {name: value.clone() for name, value in module.state_dict().items()}


def changed(module: nn.Module, before: dict[str, torch.Tensor]) -> list[str]:
    return [name for name, value in module.state_dict().items() if not torch.equal(value, before[name])]


@pytest.fixture
def broken(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return Path(shutil.copy(FIXTURES / "broken.onnx", tmp_path))


# ---- live modules


def test_a_module_changes_where_it_is_at_fault_and_nowhere_else():
    module = spoiled()
    before, parameters, places = state(module), list(module.parameters()), [p.data_ptr() for p in module.parameters()]
    repair = initaudit.fix(module, inputs())
    assert changed(module, before) == ["2.weight", "4.weight"]
    assert all(new is old for new, old in zip(module.parameters(), parameters, strict=True))
    assert [p.data_ptr() for p in module.parameters()] == places
    assert all(p.requires_grad and p.grad is None and p.is_leaf for p in parameters)
    assert (repair.code, repair.worse, repair.at_fault) == (0, (), ())
    assert initaudit.check(module, inputs()).verdict == "healthy"
    assert repr(repair) == "<Repair of Sequential: unhealthy, then healthy, 2 layers, in Sequential>"


def test_fixing_twice_changes_nothing_the_second_time_and_the_same_seed_draws_the_same():
    one, two = spoiled(), spoiled()
    initaudit.fix(one, inputs())
    again = state(one)
    assert not initaudit.fix(one, inputs()).plan.recipes
    assert not changed(one, again)
    initaudit.fix(two, inputs())
    assert not changed(two, again)
    three = spoiled()
    initaudit.fix(three, inputs(), seed=1)
    assert changed(three, again) == ["2.weight", "4.weight"]


def test_a_dry_run_leaves_a_module_alone_and_says_what_would_change():
    module = spoiled()
    before = state(module)
    repair = initaudit.fix(module, inputs(), dry_run=True)
    assert not changed(module, before)
    assert (repair.code, repair.output) == (1, "")
    assert [row.verdict_after for row in repair.rows] == ["ok", "ok"]


def test_a_module_is_as_it_was_where_the_second_audit_finds_worse():
    module = net(depth=12)
    before = state(module)
    repair = initaudit.fix(module, inputs(), scheme="normal:std=3", all=True)
    assert repair.worse
    assert repair.code == 1
    assert not changed(module, before)


def test_ties_dtypes_and_views_stay():
    module = spoiled()
    module[6].weight = module[2].weight
    module = module.to(torch.bfloat16)
    initaudit.fix(module, inputs().to(torch.bfloat16))
    assert module[6].weight is module[2].weight
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert module[2].weight.float().std() > 0.1


def test_a_bfloat16_module_gets_the_float32_draw_rounded_to_nearest():
    fine, coarse = spoiled(), spoiled().to(torch.bfloat16)
    initaudit.fix(fine, inputs())
    initaudit.fix(coarse, inputs().to(torch.bfloat16))
    assert (fine[2].weight.to(torch.bfloat16) == coarse[2].weight).float().mean() > 0.999


def test_a_module_gets_the_values_that_its_file_gets(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    module = spoiled()
    torch.save(module.state_dict(), "net.pt")
    initaudit.fix("net.pt", activation="relu")
    initaudit.fix(module, inputs())
    fixed = torch.load("net.fixed.pt")
    assert not changed(module, fixed)


def test_assigning_is_all_or_nothing(monkeypatch):
    module = spoiled()
    before = state(module)
    real = assigning._tensor
    seen: list[int] = []

    def torn(values, dtype):
        seen.append(1)
        return real(values, dtype)[:1, :3] if len(seen) > 1 else real(values, dtype)

    monkeypatch.setattr(assigning, "_tensor", torn)
    with pytest.raises(InitauditError, match="as it was"):
        initaudit.fix(module, inputs())
    assert not changed(module, before)


def test_a_trained_or_meta_module_is_refused(tmp_path):
    with pytest.raises(UsageError):
        initaudit.fix(nn.Linear(3, 3), output=tmp_path / "x.pt")
    with torch.device("meta"), pytest.raises(InitauditError):
        initaudit.fix(net())


def test_lsuv_on_a_module(monkeypatch):
    module = net()
    repair = initaudit.fix(module, inputs(), scheme="lsuv", all=True, data=torch.randn(256, 32))
    assert (repair.code, len(repair.reached)) == (0, 5)
    assert all(one.variance == pytest.approx(1, abs=0.05) for one in repair.reached)
    assert initaudit.check(module, inputs()).verdict == "healthy"


# ---- files


def test_a_file_is_repaired_beside_the_original(broken):
    original = broken.read_bytes()
    repair = initaudit.fix("broken.onnx")
    assert broken.read_bytes() == original
    assert repair.output == "broken.fixed.onnx"
    assert set(repair.inputs) == {"broken.onnx"}
    assert set(repair.outputs) == {"broken.fixed.onnx"}
    assert initaudit.check("broken.fixed.onnx").verdict == "healthy"
    assert {one.name for one in diff("broken.onnx", "broken.fixed.onnx").changed} == {
        "conv1.weight", "conv2.weight", "fc1.weight", "fc2.weight",
    }  # fmt: skip


def test_the_same_seed_gives_the_same_bytes(broken):
    initaudit.fix(broken, output="one.onnx")
    initaudit.fix(broken, output="two.onnx", jobs=1)
    initaudit.fix(broken, output="three.onnx", seed=1)
    one, two, three = (Path(f"{n}.onnx").read_bytes() for n in ("one", "two", "three"))
    assert one == two != three


def test_only_the_named_layers_are_touched_healthy_or_not(broken):
    initaudit.fix(broken, layers=["conv3", "fc2"])
    assert {one.name for one in diff("broken.onnx", "broken.fixed.onnx").changed} == {"conv3.weight", "fc2.weight"}


def test_nothing_is_written_where_the_result_is_worse(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shutil.copy(FIXTURES / "healthy.onnx", tmp_path)
    repair = initaudit.fix("healthy.onnx", scheme="normal:std=5", all=True)
    assert repair.worse
    assert (repair.code, repair.output, repair.outputs) == (1, "", {})
    assert files() == ["healthy.onnx"]


def test_a_repaired_layer_that_is_still_at_fault_is_written_and_named(broken):
    repair = initaudit.fix(broken, layers="fc2", scheme="zeros")
    assert repair.at_fault == ("fc2",)
    assert repair.code == 1
    assert Path("broken.fixed.onnx").exists()


def test_a_dry_run_writes_nothing(broken):
    repair = initaudit.fix(broken, dry_run=True)
    assert repair.code == 1
    assert repair.after is not None
    assert files() == ["broken.onnx"]


def test_in_place_keeps_the_file_its_mode(broken):
    broken.chmod(0o640)
    repair = initaudit.fix(broken, in_place=True)
    assert repair.output == "broken.onnx"
    assert broken.stat().st_mode & 0o777 == 0o640
    assert initaudit.check(broken).verdict == "healthy"
    assert files() == ["broken.onnx"]


@pytest.mark.parametrize("how", ["touched", "gone"])
def test_a_file_that_changes_between_audit_and_write_is_refused(broken, monkeypatch, how):
    real = fixing.Judge.second

    def meddled(self, path, before):
        after = real(self, path, before)
        if how == "gone":
            broken.unlink()
        else:
            os.utime(broken, ns=(1, 1))
        return after

    monkeypatch.setattr(fixing.Judge, "second", meddled)
    with pytest.raises((ReadError, InitauditError), match="while it was"):
        initaudit.fix(broken)
    assert not Path("broken.fixed.onnx").exists()
    assert not [name for name in files() if name.startswith(".")]


def test_names_of_another_file_are_kept_in_the_second_audit(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sys.path.insert(0, str(FIXTURES.parent))
    from fixtures.make import mlp

    tensors = {f"net.{name}": torch.tensor(value) for name, value in mlp().items()}
    torch.save(tensors, "names.pt")
    shutil.copy(FIXTURES / "faults.onnx", tmp_path)
    repair = initaudit.fix("faults.onnx", names="names.pt")
    assert repair.worse == repair.at_fault == ()
    assert repair.after is not None
    renamed = {m.layer.name for m in repair.before.measured}
    assert any(name.startswith("net.") for name in renamed)
    assert {m.layer.name for m in repair.after.measured} == renamed


def test_a_checkpoint_is_judged_by_its_model_on_both_sides(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save(spoiled().state_dict(), "net.pt")
    repair = initaudit.fix("net.pt", inputs(), model=net)
    assert repair.before.model.source == repair.after.model.source == "traced"
    assert repair.before.verdict == "unhealthy"
    assert repair.after.verdict == "healthy"
    assert repair.after.risk is not None


def test_arguments_that_contradict_each_other_are_refused(broken):
    for settings in (
        {"output": "x.onnx", "in_place": True}, {"layers": "fc1", "all": True}, {"jobs": 0}, {"scheme": "nonsense"},
        {"scheme": "normal:std=-1"}, {"layers": "nothing*"}, {"inputs": "x=1,3"}, {"output": broken},
    ):  # fmt: skip
        with pytest.raises(UsageError):
            initaudit.fix(broken, **settings)
    assert files() == ["broken.onnx"]


def test_the_manifest_says_what_was_done_without_clock_or_absolute_path(broken):
    repair = initaudit.fix(broken)
    told = manifest.document(repair)
    assert told["schema"] == "initaudit.repair/1"
    assert [one["tensor"] for one in told["changes"]] == [r.tensor.name for r in repair.plan.recipes]
    first = told["changes"][0]
    assert (first["layer"], first["from"]["nonfinite"], first["to"]["nonfinite"]) == ("conv1", 9, 0)
    assert (first["from"]["verdict"], first["to"]["verdict"]) == ("error", "ok")
    assert told["summary"]["before"]["verdict"] == "unhealthy"
    assert told["summary"]["after"]["verdict"] == "healthy"
    assert str(broken.parent) not in manifest.text(repair)
    import hashlib

    assert told["output"]["sha256"] == {
        "broken.fixed.onnx": hashlib.sha256(Path("broken.fixed.onnx").read_bytes()).hexdigest()
    }
    Path("broken.fixed.onnx").unlink()
    assert manifest.text(initaudit.fix(broken)) == manifest.text(repair)


def test_the_table_before_and_after_is_told_of_every_recipe(broken):
    repair = initaudit.fix(broken)
    assert {row.recipe.measured.layer.name for row in repair.rows} == {"conv1", "conv2", "fc1", "fc2"}
    for row in repair.rows:
        assert row.after is not None
        assert np.isfinite(row.after.stats.std)
        assert (row.verdict_before, row.verdict_after) == ("error", "ok")
