"""What experts start so on purpose is no warning, as a live module and as an ONNX export."""

import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("onnx")

from initaudit.types import Severity  # noqa: E402
from tests.rules.lookalikes import MAKERS  # noqa: E402


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("exported", [False, True], ids=["live", "onnx"])
@pytest.mark.parametrize("name", MAKERS)
def test_nothing_is_said_against_it(name, exported, tmp_path):
    import initaudit

    torch.manual_seed(0)
    net, examples = MAKERS[name]()
    net.eval()
    if exported:
        path = tmp_path / "net.onnx"
        torch.onnx.export(net, examples, str(path), dynamo=False)
        report = initaudit.check(path)
    else:
        report = initaudit.check(net, examples)
    assert report.freedom is not None
    assert not [f for f in report.findings if f.severity > Severity.INFO]
    narrow = [m.layer.name for m in report.measured if m.freedom is not None and m.freedom.width < m.freedom.units]
    assert not narrow
    assert all(not p.dead for p in report.freedom.parameters)
