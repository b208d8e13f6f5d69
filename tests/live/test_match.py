"""A checkpoint's tensors under the module's names, and where the two differ."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from initaudit import audit, layers
from initaudit.errors import UsageError
from initaudit.formats import read as read_file
from initaudit.live import model
from initaudit.live.match import match
from initaudit.types import Mismatch, Model, Tensor


class Net(nn.Module):
    """Convolutions, a norm, a tied head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, groups=1), nn.BatchNorm2d(8), nn.ReLU())
        self.body = nn.Linear(8, 6)
        self.words = nn.Embedding(10, 6)
        self.head = nn.Linear(6, 10, bias=False)
        self.head.weight = self.words.weight
        self.register_buffer("position_ids", torch.arange(4))

    def forward(self, x, ids):
        h = torch.nn.functional.gelu(self.body(self.stem(x).mean((2, 3))))
        return self.head(h + self.words(ids).mean(1))


@pytest.fixture(scope="module")
def live() -> Model:
    torch.manual_seed(0)
    return model.read(Net(), {"x": torch.zeros(2, 3, 8, 8), "ids": torch.zeros(2, 4, dtype=torch.int64)}, path="net")


def saved(state: dict[str, torch.Tensor], tmp_path) -> Model:
    torch.save(state, tmp_path / "net.pt")
    return read_file(tmp_path / "net.pt")


def table(found: Model) -> list[tuple]:
    rows, _ = layers.infer(found)
    return [
        (a.name, a.kind, a.weight.shape, a.fan_in, a.fan_out, a.activation, a.role, a.evidence, a.normed) for a in rows
    ]


def test_the_table_is_that_of_the_live_module_in_every_dtype(live, tmp_path):
    state = Net().state_dict()
    for dtype in (torch.float32, torch.bfloat16):
        held = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}
        found = match(saved(held, tmp_path), live, "net")
        assert found.mismatches == ()
        assert found.graph_source == "traced"
        assert table(found) == table(live)
        assert {t.dtype for t in found.tensors if t.is_float} == {str(dtype).removeprefix("torch.")}
        used = found.graph.constants["body.weight"]
        assert used.load().astype("float32").tolist() == held["body.weight"].float().tolist()


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "model.", "net.backbone."])
def test_a_prefix_is_seen_through(live, tmp_path, prefix):
    found = match(saved({prefix + name: t for name, t in Net().state_dict().items()}, tmp_path), live, "net")
    assert found.mismatches == ()
    assert {a.weight.name for a in layers.infer(found)[0]} >= {f"{prefix}body.weight", f"{prefix}stem.0.weight"}


def test_a_prefix_that_the_module_has_and_the_checkpoint_lacks(live, tmp_path):
    class Wrapped(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = Net()
            self.extra = nn.Linear(10, 2)

        def forward(self, x, ids):
            return self.extra(self.inner(x, ids))

    feed = {"x": torch.zeros(2, 3, 8, 8), "ids": torch.zeros(2, 4, dtype=torch.int64)}
    wrapped = model.read(Wrapped(), feed, path="wrapped")
    found = match(saved(Net().state_dict(), tmp_path), wrapped, "wrapped")
    assert [(one.what, one.name) for one in found.mismatches] == [
        ("missing", "extra.weight"), ("missing", "extra.bias"),
    ]  # fmt: skip
    report = audit.audit_model(found)
    assert [m.layer.name for m in report.measured if "extra" in m.layer.name] == []
    assert {(s.name, s.why) for s in report.skipped} >= {("extra.weight", "is not in the checkpoint")}
    assert report.coverage == 1


def test_ties_and_buffers_may_be_absent(live, tmp_path):
    state = Net().state_dict()
    for name in ("head.weight", "position_ids", "stem.1.num_batches_tracked"):
        del state[name]
    found = match(saved(state, tmp_path), live, "net")
    assert found.mismatches == ()
    assert (
        found.graph.constants["head.weight" if "head.weight" in found.graph.constants else "words.weight"].load().size
    )
    assert table(found) == table(live)


def test_every_difference_is_told(live, tmp_path):
    state = Net().state_dict()
    state["body.weight"] = state["body.weight"].t().contiguous()
    state["stem.0.weight"] = torch.zeros(8, 3, 5, 5)
    state["old.weight"] = torch.zeros(2, 2)
    state["old.num_batches_tracked"] = torch.zeros(())
    del state["body.bias"], state["stem.1.running_mean"]
    found = match(saved(state, tmp_path), live, "net")
    assert sorted(found.mismatches, key=lambda one: (one.what, one.name)) == [
        Mismatch("missing", "body.bias", wanted=(6,)),
        Mismatch("missing", "stem.1.running_mean", wanted=(8,)),
        Mismatch("shape", "body.weight", (6, 8), (8, 6)),
        Mismatch("shape", "stem.0.weight", (8, 3, 3, 3), (8, 3, 5, 5)),
        Mismatch("unexpected", "old.weight", found=(2, 2)),
    ]
    report = audit.audit_model(found)
    assert [m.layer.name for m in report.measured] == ["stem.1", "words"]
    assert ("body.weight", "has another shape in the checkpoint") in {(s.name, s.why) for s in report.skipped}
    assert all(np.isfinite(m.stats.std) for m in report.measured)
    assert {f.severity.label for f in report.findings if f.rule == "INI401"} == {"error", "warning"}


def test_nothing_in_common_is_refused(live, tmp_path):
    with pytest.raises(UsageError, match=r"no tensor of it fits net: that has 'stem.0.weight'.* 'a.b'"):
        match(saved({"a.b": torch.zeros(3, 3)}, tmp_path), live, "net")


def tensor(name: str, *shape: int) -> Tensor:
    return Tensor(name, shape, "float32", lambda: np.zeros(shape, np.float32))


def bare(*tensors: Tensor) -> Model:
    return Model("x", "torch", "", tensors)


@pytest.mark.parametrize(
    ("there", "own"),
    [
        ("base_model.model.q.lora_A.weight", "base_model.model.q.lora_A.default.weight"),
        ("q.weight", "base_model.model.q.base_layer.weight"),
        ("enc.conv.weight_g", "enc.conv.parametrizations.weight.original0"),
        ("enc.conv.parametrizations.weight.original", "enc.conv.weight_orig"),
        ("a._orig_mod.b._fsdp_wrapped_module.weight", "a.b.weight"),
        ("bert.LayerNorm.gamma", "bert.LayerNorm.weight"),
        ("model.encoder.w", "backbone.encoder.w"),
    ],
)
def test_two_spellings_of_one_name(there, own):
    found = match(bare(tensor(there, 3, 2)), bare(tensor(own, 3, 2)), "net")
    assert found.mismatches == ()


def test_a_vector_that_fits_by_accident_is_no_match():
    module = bare(tensor("conv1.weight", 4, 3), tensor("bn1.weight", 4))
    with pytest.raises(UsageError):
        match(bare(tensor("h.weight", 4), tensor("h.c.weight", 5, 5)), module, "net")


def test_what_hardly_anything_fits_is_the_checkpoint_of_another_model():
    head = tensor("head.w", 4, 4)
    module = bare(head, *(tensor(f"a.{k}.w", 2, 3) for k in range(15)))
    checkpoint = bare(head, *(tensor(f"b.{k}.v", 3, 5) for k in range(15)))
    with pytest.raises(UsageError, match="no checkpoint of net: 1 of its 16 tensors fit the 16 there"):
        match(checkpoint, module, "net")
    assert match(bare(head), module, "net").mismatches  # all that there is fits: an adapter, a part


def test_of_two_prefixes_the_one_that_fits_more_wins():
    module = bare(tensor("a.w", 2, 2), tensor("b.w", 3, 3), tensor("c.w", 4, 4))
    checkpoint = bare(
        tensor("student.a.w", 2, 2), tensor("student.b.w", 3, 3), tensor("student.c.w", 4, 4), tensor("ema.a.w", 2, 2)
    )
    found = match(checkpoint, module, "net")
    assert [(one.what, one.name) for one in found.mismatches] == [("unexpected", "ema.a.w")]


def test_a_module_that_was_not_traced_still_tells_what_its_tensors_are(tmp_path):
    class Refuses(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.table = nn.Linear(7, 7)

        def forward(self, x):
            raise RuntimeError("no")

    live = model.read(Refuses())
    found = match(saved({"module.table.weight": torch.randn(7, 7)}, tmp_path), replace(live, path="r"), "r")
    assert found.graph_source == "module"
    row = layers.infer(found)[0][0]
    assert (row.weight.name, row.kind, row.fan_evidence.label) == ("module.table.weight", "linear", "traced")
    assert [one.name for one in found.mismatches] == ["table.bias"]
