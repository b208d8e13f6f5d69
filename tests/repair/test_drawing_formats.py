"""The same model gets the same values in every format that keeps its names; threads make no difference."""

import subprocess
import sys
import warnings

import numpy as np
import pytest

from initaudit import formats, layers
from initaudit.edits import Recipe
from initaudit.grounds import OPERATORS
from initaudit.repair.drawing import draw, original_name
from initaudit.repair.forms import form_of
from tests.repair.test_drawing import measured

torch = pytest.importorskip("torch")
nn = torch.nn


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(20, 16, padding_idx=0)
        self.conv = nn.Conv1d(16, 24, 3, padding=1)
        self.lstm = nn.LSTM(24, 12, bidirectional=True, batch_first=True)
        self.attn = nn.MultiheadAttention(24, 4, batch_first=True)
        self.fc = nn.Linear(24, 10)

    def forward(self, ids):
        x = torch.relu(self.conv(self.embed(ids).transpose(1, 2))).transpose(1, 2)
        x, _ = self.lstm(x)
        x = x + self.attn(x, x, x, need_weights=False)[0]
        return self.fc(torch.relu(x))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    torch.manual_seed(0)
    where = tmp_path_factory.mktemp("formats")
    net = Net().eval()
    ids = torch.randint(0, 20, (2, 7))
    safetensors = pytest.importorskip("safetensors.torch")
    torch.save(net.state_dict(), where / "state.pt")
    torch.save({"state_dict": {f"module.{k}": v.half() for k, v in net.state_dict().items()}}, where / "parallel.pt")
    torch.save(net, where / "module.pt")
    safetensors.save_file(net.state_dict(), where / "model.safetensors")
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # one fused op, which the tracer does not find again
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(net, ids).save(where / "script.pt")
        torch.export.save(torch.export.export(net, (ids,)), where / "program.pt2")
        if pytest.importorskip("onnx"):
            torch.onnx.export(net, (ids,), where / "old.onnx", dynamo=False, opset_version=17)
    torch.backends.mha.set_fastpath_enabled(fast)
    return where


def drawn(path, scheme):
    """Canonical draws of every operator and table of a file, by the name in the model."""
    found = {}
    for one in layers.infer(formats.read(path))[0]:
        if one.kind in OPERATORS or one.kind == "embedding":
            of = Recipe(measured(one), one.weight, scheme, "--all")
            found[original_name(one, one.weight)] = form_of(one, one.weight).canonical(draw(of, 7))
    return found


@pytest.mark.parametrize("scheme", ["xavier", "orthogonal:gain=2", "normal:std=0.1"])
def test_every_format_gets_the_same_values(files, scheme):
    wanted = drawn(files / "state.pt", scheme)
    assert len(wanted) == 2 + 4 + 2 + 1
    for name in ("parallel.pt", "module.pt", "model.safetensors", "script.pt", "program.pt2", "old.onnx"):
        got = drawn(files / name, scheme)
        for key, values in wanted.items():
            if key == "attn.in_proj_weight" and name == "old.onnx" and key not in got:
                continue  # the exporter cut it into three nameless pieces
            here = got[key]
            assert here.size == values.size, (name, key)
            assert (here.reshape(values.shape) == values).all(), (name, key)


_HASH = """
import hashlib, numpy as np
from initaudit.edits import Recipe
from initaudit.repair.drawing import draw
from tests.build import layer
from tests.repair.test_drawing import measured
for shape, parts in (((300, 300), ()), ((500, 120), ()), ((400, 150), ("input", "forget", "cell", "output"))):
    one = layer("w", np.zeros(shape, np.float32), parts=parts)
    for scheme in ("orthogonal", "he"):
        print(hashlib.sha256(draw(Recipe(measured(one), one.weight, scheme, ""), 0).tobytes()).hexdigest())
"""


def test_the_number_of_threads_changes_no_bit():
    told = {
        subprocess.run(
            [sys.executable, "-c", _HASH],
            env={
                "OMP_NUM_THREADS": n,
                "OPENBLAS_NUM_THREADS": n,
                "MKL_NUM_THREADS": n,
                "PYTHONPATH": ":".join(sys.path),
            },
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for n in ("1", "4")
    }
    assert len(told) == 1
    assert len(told.pop().split()) == 6


def test_the_same_seed_writes_the_same_bytes():
    one = np.concatenate([draw_all(3), draw_all(3)])
    assert one[: len(one) // 2].tobytes() == one[len(one) // 2 :].tobytes()
    assert draw_all(4).tobytes() != draw_all(3).tobytes()


def draw_all(seed):
    from tests.build import layer

    fc = layer("fc", np.zeros((40, 30), np.float32))
    return draw(Recipe(measured(fc), fc.weight, "he-truncated", ""), seed).astype(np.float32)
