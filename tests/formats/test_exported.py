from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from initaudit import formats, layers
from initaudit.errors import CorruptFileError, InitauditError, UnsafeFileError, UnsupportedError
from initaudit.formats.exported.graph import module_path
from initaudit.types import Evidence, Model
from tests.formats import exported_files as files

torch = pytest.importorskip("torch")
nn = torch.nn


def export(module: Any, args: tuple[Any, ...], folder: Path, core: bool = False, **options: Any) -> Path:
    made = torch.export.export(module.eval(), args, **options)
    path = folder / f"model{int(core)}.pt2"
    torch.export.save(made.run_decompositions() if core else made, path)
    return path


def rows(model: Model) -> dict[str, tuple[Any, ...]]:
    found, _ = layers.infer(model)
    return {a.weight.name: (a.kind, a.fan_in, a.fan_out, a.groups, a.activation) for a in found}


def ops(model: Model) -> list[str]:
    assert model.graph is not None
    return [node.op for node in model.graph.nodes]


def refusal(path: Path) -> InitauditError:
    with pytest.raises(InitauditError) as caught:
        formats.read(path)
    assert "\n" not in str(caught.value)
    return caught.value


def changed(**parts: Any) -> dict[str, bytes]:
    """Return the hand-made archive with members replaced (a value) or left out (None), by the end of their names."""
    made = files.members()
    for end, content in parts.items():
        name = next(n for n in made if n.split("/")[-1].partition(".")[0] == end)
        if content is None:
            del made[name]
        else:
            made[name] = content if isinstance(content, bytes) else files.dumped(content)
    return made


# --- what torch writes


class Mixed(nn.Module):
    """Convolution, norms, a tie, buffers of both kinds, a captured tensor, functions and modules."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(4, 8, 3, stride=2, groups=2)
        self.bn = nn.BatchNorm2d(8)
        self.norm = nn.LayerNorm(8)
        self.up = nn.Linear(8, 16)
        self.down = nn.Linear(16, 8, bias=False)
        self.emb = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 10, bias=False)
        self.head.weight = self.emb.weight
        self.register_buffer("table", torch.arange(8.0), persistent=False)
        self.fixed = torch.randn(8)

    def forward(self, x: Any, ids: Any) -> Any:
        h = torch.relu(self.bn(self.conv(x))).mean((2, 3)) + self.table * self.fixed
        h = h + self.emb(ids)
        h = h + self.down(nn.functional.gelu(self.up(self.norm(h))))
        return self.head(h)


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path, Path]:
    folder = tmp_path_factory.mktemp("exported")
    torch.manual_seed(0)
    module = Mixed()
    args = (torch.randn(2, 4, 9, 9), torch.tensor([1, 2]))
    return module, export(module, args, folder), export(module, args, folder, core=True)


def test_tensors_have_their_own_names_and_values(mixed: tuple[Any, Path, Path]) -> None:
    module, path, _ = mixed
    model = formats.read(path)
    assert (model.format, model.graph_source) == ("exported", "exported")
    assert "torch " in model.detail
    held = {tensor.name: tensor for tensor in model.tensors}
    expected = module.state_dict(keep_vars=False) | {"table": module.table, "fixed": module.fixed}
    assert held.keys() == expected.keys()
    for name, value in expected.items():
        assert held[name].load().tobytes() == value.numpy().tobytes(), name
        assert held[name].shape == tuple(value.shape)
    assert held["emb.weight"].identity == held["head.weight"].identity
    parameters = {name for name, _ in module.named_parameters(remove_duplicate=False)}
    assert {name for name, tensor in held.items() if not tensor.buffer} == parameters


def test_graph_scopes_inputs_and_shapes(mixed: tuple[Any, Path, Path]) -> None:
    graph = formats.read(mixed[1]).graph
    assert graph is not None
    assert list(graph.inputs) == ["x", "ids"]
    assert graph.inputs["x"] == (2, 4, 9, 9)
    conv = next(node for node in graph.nodes if node.op == "conv")
    assert conv.inputs == ("x", "conv.weight", "conv.bias")
    assert conv.attrs["@scope"] == "conv"
    assert graph.shapes[conv.outputs[0]] == (2, 8, 4, 4)
    assert conv.call is not None
    assert conv.call.target.endswith("conv2d")
    assert set(graph.constants) >= {"conv.weight", "table", "fixed"}
    (end,) = graph.outputs
    assert graph.nodes[-1].outputs == (end,)


def test_rows_of_training_program_and_core_program_agree(mixed: tuple[Any, Path, Path]) -> None:
    first, second = (rows(formats.read(path)) for path in mixed[1:])
    assert first["conv.weight"] == ("conv", 18.0, 36.0, 2, "relu")
    assert first["up.weight"] == ("linear", 8.0, 16.0, 1, "gelu")
    for name in ("conv.weight", "up.weight", "down.weight"):
        assert first[name] == second[name]


def test_layers_are_traced(mixed: tuple[Any, Path, Path]) -> None:
    found, _ = layers.infer(formats.read(mixed[1]))
    conv = next(a for a in found if a.weight.name == "conv.weight")
    assert (conv.evidence, conv.name) == (Evidence.TRACED, "conv")
    assert conv.bias is not None
    assert conv.bias.name == "conv.bias"


def test_reading_needs_no_torch(mixed: tuple[Any, Path, Path]) -> None:
    code = (
        "import sys; from initaudit import formats, layers; m = formats.read(sys.argv[1]); layers.infer(m);"
        "[t.load() for t in m.tensors]; sys.exit('torch' in sys.modules)"
    )
    root = Path(__file__).parent.parent.parent
    assert subprocess.run([sys.executable, "-c", code, str(mixed[1])], check=False, cwd=root).returncode == 0


def test_dynamic_sizes_stay_unknown_and_bfloat16(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(8, 6), nn.Tanh(), nn.Flatten(0, 1), nn.Linear(6, 4)).bfloat16()
    size = torch.export.Dim("n", min=2, max=64)
    args = (torch.randn(3, 5, 8, dtype=torch.bfloat16),)
    model = formats.read(export(module, args, tmp_path, dynamic_shapes=({0: size},)))
    assert model.graph is not None
    assert list(model.graph.inputs.values()) == [(None, 5, 8)]
    assert rows(model)["0.weight"] == ("linear", 8.0, 6.0, 1, "tanh")
    assert next(t for t in model.tensors if t.name == "0.weight").dtype == "bfloat16"


# --- graphs inside graphs


class Choice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 4), nn.Linear(6, 4)

    def forward(self, x: Any) -> Any:
        h = torch.relu(self.a(x))
        return torch.cond(h.sum() > 0, lambda h: self.b(h).sigmoid(), lambda h: torch.tanh(self.c(h)), (h,))


class Modes(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(8, 6), nn.Linear(6, 4), nn.Linear(4, 2)

    def forward(self, x: Any) -> Any:
        h = self.a(x)
        with torch.no_grad():
            h = torch.relu(h)
        with torch.autocast("cpu", dtype=torch.bfloat16):
            h = torch.tanh(self.b(h))
        return self.c(h.float())


class Loop(nn.Module):
    def __init__(self, kind: str) -> None:
        super().__init__()
        self.a, self.b, self.kind = nn.Linear(8, 8), nn.Linear(8, 4), kind

    def forward(self, x: Any) -> Any:
        from torch._higher_order_ops.map import map as each
        from torch._higher_order_ops.scan import scan
        from torch._higher_order_ops.while_loop import while_loop

        if self.kind == "map":
            return self.b(each(lambda row: torch.tanh(self.a(row)), x))
        if self.kind == "while":
            start = torch.zeros((), dtype=torch.int64)
            return self.b(while_loop(lambda i, h: i < 3, lambda i, h: (i + 1, torch.tanh(self.a(h))), (start, x))[1])

        def step(state: Any, row: Any) -> Any:
            new = torch.tanh(self.a(row) + state)
            return new, new.clone()

        return self.b(scan(step, x[0] * 0.0, x)[1])


@pytest.mark.parametrize("core", [False, True], ids=["training", "core"])
def test_both_sides_of_a_condition(tmp_path: Path, core: bool) -> None:
    model = formats.read(export(Choice(), (torch.randn(3, 8),), tmp_path, core))
    found = rows(model)
    assert [found[f"{name}.weight"][4] for name in "abc"] == ["relu", "sigmoid", "tanh"]
    assert ops(model)[-1] == "phi"


def test_modes_are_transparent(tmp_path: Path) -> None:
    model = formats.read(export(Modes(), (torch.randn(3, 8),), tmp_path))
    found = rows(model)
    assert [found[f"{name}.weight"][4] for name in "abc"] == ["relu", "tanh", None]
    assert not any("wrap" in op or "higher" in op for op in ops(model))


@pytest.mark.parametrize(
    ("kind", "leaves"),
    [("map", {"scan_slice", "scan_stack"}), ("while", {"phi"}), ("scan", {"phi", "scan_slice", "scan_stack"})],
)
def test_loops(tmp_path: Path, kind: str, leaves: set[str]) -> None:
    model = formats.read(export(Loop(kind), (torch.randn(5, 8),), tmp_path))
    found = rows(model)
    assert [found[f"{name}.weight"] for name in "ab"] == [
        ("linear", 8.0, 8.0, 1, "tanh"), ("linear", 8.0, 4.0, 1, None),
    ]  # fmt: skip
    assert leaves <= set(ops(model))


def test_what_an_in_place_op_writes_is_read_by_what_follows(tmp_path: Path) -> None:
    body = [
        files.node("linear", ["h"], files.tensor("x"), files.tensor("p_a_weight")),
        files.node("select", ["v"], files.tensor("h"), {"as_int": 0}, {"as_int": 0}),
        files.node("tanh_", ["w"], files.tensor("v")),
        files.node("linear", ["y"], files.tensor("h"), files.tensor("p_b_weight")),
    ]
    names = {"p_a_weight": "a.weight", "p_b_weight": "b.weight"}
    record = files.program(files.graph([*names, "x"], body, ["y"]), names)
    graph = formats.read(files.write(tmp_path, files.members(record))).graph
    assert graph is not None
    made = {name: node for node in graph.nodes for name in node.outputs}
    last = graph.nodes[-1]
    assert made[last.inputs[0]].op == "phi"
    assert {made[name].op for name in made[last.inputs[0]].inputs} == {"linear", "tanh"}


# --- older layouts


def artifact(module: Any, args: tuple[Any, ...]) -> Any:
    from torch._export.serde.serialize import serialize

    return serialize(torch.export.export(module, args))


@pytest.mark.parametrize("ending", [".pt", ".json"])
@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_layout_of_torch_2_1_to_2_6(tmp_path: Path, ending: str, method: int) -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU(), nn.Linear(6, 2)).eval()
    made = artifact(module, (torch.randn(3, 4),))
    parts = {
        "serialized_exported_program.json": made.exported_program,
        f"serialized_state_dict{ending}": made.state_dict,
        f"serialized_constants{ending}": made.constants,
        "version": b"8.1",
    }
    model = formats.read(files.write(tmp_path, files.packed(parts, method)))
    held = {tensor.name: tensor for tensor in model.tensors}
    for name, value in module.state_dict().items():
        assert held[name].load().tobytes() == value.numpy().tobytes()
    assert held["1.running_mean"].buffer
    assert not held["1.weight"].buffer
    assert rows(model)["0.weight"] == ("linear", 4.0, 6.0, 1, "relu")


def test_layout_with_one_file_of_weights(tmp_path: Path) -> None:
    module = nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))
    made = artifact(module, (torch.randn(3, 4),))
    parts = {
        "a/models/model.json": made.exported_program,
        "a/data/weights/model.pt": made.state_dict,
        "a/data/constants/model.pt": made.constants,
        "a/archive_format": b"pt2",
    }
    model = formats.read(files.write(tmp_path, parts))
    assert rows(model)["0.weight"] == ("linear", 4.0, 6.0, 1, "tanh")
    assert (
        next(t for t in model.tensors if t.name == "2.bias").load().tobytes()
        == module[2].bias.detach().numpy().tobytes()
    )


def test_schema_of_torch_2_1(tmp_path: Path) -> None:
    import io

    record = files.two_layers()
    graph = record["graph_module"]["graph"]
    for one in graph["nodes"]:
        for argument in one["inputs"]:
            del argument["kind"]
    graph["nodes"][1]["metadata"]["nn_module_stack"] = "L__self___a,L['self'].seq[1],torch.nn.ReLU"
    graph["tensor_values"] = {name: {"meta": value} for name, value in graph["tensor_values"].items()}
    for value in graph["tensor_values"].values():
        value["meta"]["storage_offset"] = 0
    record["graph_module"]["signature"] = {
        "inputs_to_parameters": {"p_a_weight": "a.weight", "p_b_weight": "b.weight"}, "inputs_to_buffers": {},
        "user_inputs": ["x"], "user_outputs": ["linear_1"], "buffers_to_mutate": {}, "backward_signature": None,
    }  # fmt: skip
    for key in ("schema_version", "torch_version"):
        del record[key]
    saved = io.BytesIO()
    torch.save({name: nn.Parameter(torch.from_numpy(array)) for name, array in files.weights().items()}, saved)
    parts = {"serialized_exported_program.json": files.dumped(record), "serialized_state_dict.json": saved.getvalue(),
             "version": b"1"}  # fmt: skip
    model = formats.read(files.write(tmp_path, parts))
    assert rows(model) == {"a.weight": ("linear", 3.0, 4.0, 1, "relu"), "b.weight": ("linear", 4.0, 2.0, 1, None)}
    assert model.graph is not None
    assert model.graph.nodes[1].attrs["@scope"] == "seq.1"
    assert model.graph.shapes[model.graph.nodes[0].outputs[0]] == (1, 4)


def test_module_paths() -> None:
    assert module_path("getattr(getattr(L['self'].layer1, '0').convs, '2')") == "layer1.0.convs.2"


# --- archives made by hand


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_hand_made_archive(tmp_path: Path, method: int) -> None:
    model = formats.read(files.write(tmp_path, files.packed(files.members(), method)))
    assert rows(model) == {"a.weight": ("linear", 3.0, 4.0, 1, "relu"), "b.weight": ("linear", 4.0, 2.0, 1, None)}
    for name, array in files.weights().items():
        assert np.array_equal(next(t for t in model.tensors if t.name == name).load(), array)


def test_strides_and_offsets(tmp_path: Path) -> None:
    made = files.members()
    table = json.loads(made["m/data/weights/model_weights_config.json"])
    whole = np.arange(40, dtype=np.float32)
    made["m/data/weights/weight_0"] = whole.tobytes()
    table["config"]["a.weight"]["tensor_meta"] = files.meta((4, 3), strides=(1, 4), offset=5)
    made["m/data/weights/model_weights_config.json"] = files.dumped(table)
    model = formats.read(files.write(tmp_path, made))
    first = next(t for t in model.tensors if t.name == "a.weight")
    assert np.array_equal(first.load(), whole[5:17].reshape(3, 4).T)
    assert (first.offset, first.strides) == (5, (1, 4))


def test_big_endian(tmp_path: Path) -> None:
    made = files.members(arrays={name: array.byteswap() for name, array in files.weights().items()})
    made["m/byteorder"] = b"big"
    model = formats.read(files.write(tmp_path, made))
    assert np.array_equal(model.tensors[0].load(), files.weights()["a.weight"])


def test_several_programs_keep_their_names_apart(tmp_path: Path) -> None:
    made = files.members()
    for name in list(made):
        if "model" in name.rpartition("/")[2]:
            made[name.replace("model.json", "other.json").replace("model_", "other_")] = made[name]
    model = formats.read(files.write(tmp_path, made))
    assert {t.name for t in model.tensors} == {f"{p}.{t}.weight" for p in ("model", "other") for t in "ab"}
    assert model.graph is not None
    assert [node.inputs[1:] for node in model.graph.nodes if node.op == "linear"] == [
        ("model.a.weight",), ("model.b.weight",), ("model.a.weight",), ("model.b.weight",),  # one storage for both
    ]  # fmt: skip
    assert (list(model.graph.inputs), len(model.graph.outputs)) == (["model.x", "other.x"], 2)


def test_weights_left_out_of_the_file_are_told(tmp_path: Path) -> None:
    model = formats.read(files.write(tmp_path, changed(weight_0=b"")))
    assert [(skip.name, skip.why) for skip in model.skipped] == [("a.weight", "exported without its values")]
    assert rows(model) == {"b.weight": ("linear", 4.0, 2.0, 1, None)}


def test_numbers_that_json_does_not_have(tmp_path: Path) -> None:
    record = files.two_layers()
    ends = ({"as_float": -1.5}, {"as_float": {"$float": "Infinity"}})
    record["graph_module"]["graph"]["nodes"][1] = files.node("clamp", ["relu"], files.tensor("linear"), *ends)
    graph = formats.read(files.write(tmp_path, files.members(record))).graph
    assert graph is not None
    call = graph.nodes[1].call
    assert call is not None
    assert call.args[1:] == (-1.5, float("inf"))


def test_compiled_packages_are_refused_unless_a_program_lies_beside(tmp_path: Path) -> None:
    made = {"m/data/aotinductor/model/a.so": b"x", "m/archive_format": b"pt2"}
    error = refusal(files.write(tmp_path, made, "a.pt2"))
    assert isinstance(error, UnsupportedError)
    assert "AOTInductor" in error.reason
    assert rows(formats.read(files.write(tmp_path, {**made, **files.members()}, "b.pt2")))


# --- hostile archives


def test_cut_short_anywhere(tmp_path: Path) -> None:
    whole = files.packed(files.members())
    for length in range(4, len(whole), 97):
        refusal(files.write(tmp_path, whole[:length]))


def test_flipped_bytes_never_break_out(tmp_path: Path) -> None:
    whole = files.packed(files.members())
    for at in range(30, len(whole), 131):
        broken = bytearray(whole)
        broken[at] ^= 0xFF
        try:
            layers.infer(formats.read(files.write(tmp_path, bytes(broken))))
        except InitauditError as error:
            assert "\n" not in str(error)


def _node_changed(**fields: Any) -> Any:
    record = files.two_layers()
    record["graph_module"]["graph"]["nodes"][0].update(fields)
    return record


def _nested(depth: int) -> Any:
    body = files.graph(["x"], [], ["x"])
    for _ in range(depth):
        inner = {"as_graph": {"name": "g", "graph": body}}
        body = files.graph(["x"], [files.node("torch.ops.higher_order.wrap", ["y"], inner, files.tensor("x"))], ["y"])
    return files.program(body, {})


def _weights_table(**fields: Any) -> Any:
    table = json.loads(files.members()["m/data/weights/model_weights_config.json"])
    table["config"]["a.weight"].update(fields)
    return table


@pytest.mark.parametrize(
    ("parts", "kind", "words"),
    [
        ({"weight_1": None}, CorruptFileError, "not in the archive"),
        ({"weight_0": b"1234"}, CorruptFileError, "a.weight"),
        ({"model_weights_config": None}, CorruptFileError, "model_weights_config.json"),
        ({"model_weights_config": {"config": {}}}, CorruptFileError, "not among the weights"),
        ({"model_weights_config": b"{"}, CorruptFileError, "not JSON"),
        ({"model_weights_config": _weights_table(path_name="../../passwd")}, CorruptFileError, "not in the archive"),
        ({"model_weights_config": _weights_table(tensor_meta=files.meta((2**40, 2**40)))}, CorruptFileError, "file"),
        ({"model_weights_config": _weights_table(tensor_meta=files.meta((-4, 3)))}, CorruptFileError, ""),
        ({"model_weights_config": _weights_table(tensor_meta=files.meta((4, 3), offset=-1))}, CorruptFileError, ""),
        ({"model_weights_config": _weights_table(tensor_meta=5)}, CorruptFileError, ""),
        ({"model": _nested(40)}, UnsafeFileError, "deep"),
        ({"model": b"[" * 200_000}, CorruptFileError, "nested"),
        ({"model": []}, CorruptFileError, "not a JSON object"),
        ({"model": {}}, CorruptFileError, "graph_module"),
        ({"model": _node_changed(target=7)}, CorruptFileError, "target"),
        ({"model": _node_changed(inputs=[{"name": "a", "arg": {}}])}, CorruptFileError, "argument"),
        ({"model": _node_changed(inputs=[{"name": "", "arg": files.tensor("relu")}])}, CorruptFileError, "'relu'"),
        ({"model": _node_changed(outputs=[])}, CorruptFileError, "'linear'"),
        ({"byteorder": b"middle"}, CorruptFileError, "byte order"),
    ],
)  # fmt: skip
def test_hostile(tmp_path: Path, parts: dict[str, Any], kind: type[InitauditError], words: str) -> None:
    error = refusal(files.write(tmp_path, changed(**parts)))
    assert isinstance(error, kind)
    assert words in error.reason
    assert "broke the reader" not in error.reason


def test_a_huge_program_is_not_loaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("initaudit.formats.exported.file.MAX_JSON", 100)
    assert "at most 100 are read" in refusal(files.write(tmp_path, files.members())).reason


def test_a_bomb_is_not_inflated(tmp_path: Path) -> None:
    made = changed(model=b" " * (129 << 20))
    error = refusal(files.write(tmp_path, files.packed(made, zipfile.ZIP_DEFLATED)))
    assert isinstance(error, UnsafeFileError)


# --- quantised


def _quantised(call: str, rest: tuple[Any, ...], scale: tuple[int, ...]) -> dict[str, bytes]:
    """Return an archive whose first weight is stored as int8 and dequantised by a call."""
    body = [
        files.node(call, ["w"], files.tensor("b_w"), *rest),
        files.node("linear", ["h"], files.tensor("x"), files.tensor("w")),
        files.node("relu", ["r"], files.tensor("h")),
    ]
    record = files.program(files.graph(["b_w", "b_s", "b_z", "x"], body, ["r"]), {"b_w": "w", "b_s": "s", "b_z": "z"})
    whole = np.arange(-12, 12, dtype=np.int8).reshape(4, 6)
    scales = (np.arange(np.prod(scale), dtype=np.float32) + 1).reshape(scale)
    arrays = {"w": whole, "s": scales, "z": np.zeros(scale, np.int8)}
    made = files.members(record, arrays)
    table = json.loads(made["m/data/weights/model_weights_config.json"])
    for name in ("w", "z"):
        table["config"][name]["tensor_meta"]["dtype"] = 2
    made["m/data/weights/model_weights_config.json"] = files.dumped(table)
    return made


_SCALES = (files.tensor("b_s"), files.tensor("b_z"))
_SPACE = "torch.ops.quantized_decomposed"


@pytest.mark.parametrize(
    ("call", "rest", "scale", "wide"),
    [
        (f"{_SPACE}.dequantize_per_tensor.default", ({"as_float": 0.5}, {"as_int": 0}), (1,), np.full((4, 6), 0.5)),
        (f"{_SPACE}.dequantize_per_channel.default", (*_SCALES, {"as_int": 0}), (4,),
         np.repeat(np.arange(1.0, 5.0), 6).reshape(4, 6)),
        (f"{_SPACE}.dequantize_per_channel_group.default",
         (*_SCALES, {"as_int": -8}, {"as_int": 7}, {"as_scalar_type": 2}, {"as_int": 3}), (4, 2),
         np.repeat(np.arange(1.0, 9.0), 3).reshape(4, 6)),
        ("torch.ops.torchao.dequantize_affine.default", ({"as_ints": [1, 2]}, *_SCALES, {"as_scalar_type": 2}), (4, 3),
         np.repeat(np.arange(1.0, 13.0), 2).reshape(4, 6)),
    ],
    ids=["tensor", "channel", "group", "blocks"],
)  # fmt: skip
def test_stored_integers_are_read_as_the_numbers_they_stand_for(
    tmp_path: Path, call: str, rest: tuple[Any, ...], scale: tuple[int, ...], wide: Any
) -> None:
    found, _ = layers.infer(formats.read(files.write(tmp_path, _quantised(call, rest, scale))))
    (one,) = (a for a in found if a.kind == "linear")
    assert (one.weight.name, one.fan_in, one.fan_out, one.activation) == ("w", 6.0, 4.0, "relu")
    assert np.array_equal(one.weight.load(), np.arange(-12, 12).reshape(4, 6) * wide)
    assert "w" in one.weight.parts


def test_in_a_folder_weights_come_first(tmp_path: Path) -> None:
    files.write(tmp_path, files.members())
    assert formats.read(tmp_path).graph is not None
    torch.save({name: torch.from_numpy(array) for name, array in files.weights().items()}, tmp_path / "model.pt")
    model = formats.read(tmp_path)
    assert model.format == "torch"
    assert "not read: model.pt2" in model.detail
