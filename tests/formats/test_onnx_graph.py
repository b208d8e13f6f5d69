from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from initaudit.errors import CorruptFileError, UnsupportedError
from initaudit.formats.onnx import FORMAT
from initaudit.formats.onnx import graph as onnx_graph
from initaudit.types import Graph, Model, Node, Tensor
from tests.formats.onnx_files import MAIN, model, read, save, value, weights

LOCAL = [*MAIN, helper.make_opsetid("local", 1)]


def graph_of(found: Model) -> Graph:
    assert found.graph is not None
    return found.graph


def steps(graph: Graph) -> list[tuple[str, tuple[str, ...], tuple[str, ...]]]:
    return [(n.op, n.inputs, n.outputs) for n in graph.nodes]


def branch(name: str, op: str, seed: int) -> onnx.GraphProto:
    stored = numpy_helper.from_array(weights(4, 4, seed), "w")
    return helper.make_graph([helper.make_node(op, ["x", "w"], ["b"])], name, [], [value("b")], [stored])


def test_branches_are_inlined_and_joined(tmp_path: Path) -> None:
    node = helper.make_node(
        "If", ["c"], ["y"], "choice", then_branch=branch("t", "MatMul", 1), else_branch=branch("e", "Add", 2)
    )
    found = read(model([node], inputs=(value("x", [1, 4]), value("c", [], TensorProto.BOOL))), tmp_path)
    graph = graph_of(found)
    assert steps(graph) == [
        ("matmul", ("x", "w"), ("b",)),
        ("add", ("x", "w#2"), ("b#2",)),
        ("phi", ("b", "b#2"), ("y",)),
    ]
    assert graph.nodes[-1] == Node("phi", ("b", "b#2"), ("y",), {"condition": "c"}, "choice")
    assert [t.name for t in found.tensors] == ["w", "w#2"]
    np.testing.assert_array_equal(graph.constants["w#2"].load(), weights(4, 4, 2))


def test_a_loop_is_its_first_round(tmp_path: Path) -> None:
    body = helper.make_graph(
        [
            helper.make_node("MatMul", ["state", "w"], ["h"]),
            helper.make_node("Identity", ["go"], ["go_on"]),
            helper.make_node("Relu", ["h"], ["each"]),
        ],
        "body",
        [value("i", [], TensorProto.INT64), value("go", [], TensorProto.BOOL), value("state"), value("same")],
        [value("go_on"), value("h"), value("same"), value("each")],
    )
    node = helper.make_node("Loop", ["n", "", "x", "x"], ["y", "kept", "stacked"], body=body)
    found = read(model([node], {"w": weights(4, 4), "n": np.array(3)}, outputs=("y", "kept", "stacked")), tmp_path)
    assert steps(graph_of(found)) == [
        ("loop_index", ("n",), ("i",)),
        ("phi", ("",), ("go",)),
        ("phi", ("x",), ("state",)),
        ("matmul", ("state", "w"), ("h",)),
        ("identity", ("go",), ("go_on",)),
        ("relu", ("h",), ("each",)),
        ("phi", ("x", "h"), ("y",)),
        ("phi", ("x", "x"), ("kept",)),
        ("scan_stack", ("each",), ("stacked",)),
    ]


def test_a_scan_is_its_first_round(tmp_path: Path) -> None:
    body = helper.make_graph(
        [helper.make_node("Add", ["state", "item"], ["next"]), helper.make_node("Relu", ["next"], ["out"])],
        "body",
        [value("state"), value("item")],
        [value("next"), value("out")],
    )
    node = helper.make_node("Scan", ["s", "x"], ["y", "all"], body=body, num_scan_inputs=1, scan_input_axes=[1])
    found = read(model([node], {"s": weights(1, 1)}, outputs=("y", "all")), tmp_path)
    assert steps(graph_of(found)) == [
        ("phi", ("s",), ("state",)),
        ("scan_slice", ("x",), ("item",)),
        ("add", ("state", "item"), ("next",)),
        ("relu", ("next",), ("out",)),
        ("phi", ("s", "next"), ("y",)),
        ("scan_stack", ("out",), ("all",)),
    ]
    assert graph_of(found).nodes[1].attrs == {"axis": 1}


def test_graphs_of_operators_that_are_not_known(tmp_path: Path) -> None:
    body = helper.make_graph([helper.make_node("Relu", ["a"], ["b"])], "body", [value("a")], [value("b")])
    node = helper.make_node("BeamSearch", ["x"], ["y"], domain="com.microsoft", decoder=body, k=4)
    found = read(model([node], opsets=[*MAIN, helper.make_opsetid("com.microsoft", 1)]), tmp_path)
    assert steps(graph_of(found)) == [
        ("subgraph_input", ("x",), ("a",)),
        ("relu", ("a",), ("b",)),
        ("beam_search", ("x", "b"), ("y",)),
    ]
    assert graph_of(found).nodes[-1].attrs == {"k": 4}


def function(name: str, nodes: list[onnx.NodeProto], **fields: object) -> onnx.FunctionProto:
    return helper.make_function("local", name, ["a"], ["b"], nodes, LOCAL, **fields)  # type: ignore[arg-type]


def test_functions_are_inlined_with_their_attributes(tmp_path: Path) -> None:
    leaky = helper.make_node("LeakyRelu", ["a"], ["h"])
    leaky.attribute.add(name="alpha", ref_attr_name="slope", type=onnx.AttributeProto.FLOAT)
    sized = helper.make_node("Dropout", ["h"], ["b"])
    sized.attribute.add(name="seed", ref_attr_name="seed", type=onnx.AttributeProto.INT)
    unset = sized.attribute.add(name="left_out", ref_attr_name="nowhere", type=onnx.AttributeProto.INT)
    assert unset.name
    inner = function("inner", [leaky, sized], attributes=["slope"], attribute_protos=[helper.make_attribute("seed", 7)])
    call = helper.make_node("inner", ["a"], ["b"], "deep", domain="local")
    call.attribute.add(name="slope", ref_attr_name="angle", type=onnx.AttributeProto.FLOAT)
    outer = function("outer", [call], attributes=["angle"])
    nodes = [
        helper.make_node("outer", ["x"], ["m"], "first", domain="local", angle=0.25),
        helper.make_node("outer", ["m"], ["y"], "second", domain="local", angle=0.5),
    ]
    graph = graph_of(read(model(nodes, functions=[inner, outer], opsets=LOCAL), tmp_path))
    assert steps(graph) == [
        ("leaky_relu", ("x",), ("first/deep/h",)),
        ("dropout", ("first/deep/h",), ("first/deep/b",)),
        ("leaky_relu", ("first/deep/b",), ("second/deep/h",)),
        ("dropout", ("second/deep/h",), ("second/deep/b",)),
    ]
    assert [n.attrs for n in graph.nodes] == [{"alpha": 0.25}, {"seed": 7}, {"alpha": 0.5}, {"seed": 7}]
    assert graph.outputs == ("second/deep/b",)


def test_a_constant_in_a_function_called_twice_is_one_tensor(tmp_path: Path) -> None:
    body = [
        helper.make_node("Constant", [], ["w"], value=numpy_helper.from_array(weights(4, 4))),
        helper.make_node("MatMul", ["a", "w"], ["b"]),
    ]
    nodes = [
        helper.make_node("f", ["x"], ["m"], "one", domain="local"),
        helper.make_node("f", ["m"], ["y"], "two", domain="local"),
    ]
    found = read(model(nodes, functions=[function("f", body)], opsets=LOCAL), tmp_path)
    (only,) = found.tensors
    graph = graph_of(found)
    assert only.name == "one/w"
    assert graph.constants["one/w"] is graph.constants["two/w"]


def call(name: str, source: str, target: str, **attrs: object) -> onnx.NodeProto:
    return helper.make_node(name, [source], [target], domain="local", **attrs)


def test_a_function_that_calls_itself(tmp_path: Path) -> None:
    proto = model([call("f", "x", "y")], functions=[function("f", [call("f", "a", "b")])], opsets=LOCAL)
    with pytest.raises(CorruptFileError, match="calls itself"):
        FORMAT.read(save(proto, tmp_path))


def test_a_function_that_is_handed_a_call_of_itself(tmp_path: Path) -> None:
    choice = helper.make_node("If", ["a"], ["b"])
    for name in ("then_branch", "else_branch"):
        choice.attribute.add(name=name, ref_attr_name="body", type=onnx.AttributeProto.GRAPH)
    again = call("f", "a", "b")
    again.attribute.add(name="body", ref_attr_name="body", type=onnx.AttributeProto.GRAPH)
    body = helper.make_graph([again], "again", [], [value("b")])
    functions = [function("f", [choice], attributes=["body"])]
    proto = model([call("f", "x", "y", body=body)], functions=functions, opsets=LOCAL)
    with pytest.raises(CorruptFileError, match="calls itself"):
        FORMAT.read(save(proto, tmp_path))


def test_functions_that_call_each_other_too_deep(tmp_path: Path) -> None:
    deep = [function(f"f{k}", [call(f"f{k + 1}", "a", "b")]) for k in range(200)]
    deep.append(function("f200", [helper.make_node("Relu", ["a"], ["b"])]))
    for first in (0, 140):  # whatever is counted first
        nodes = [call(f"f{first}", "x", "m"), call("f0", "m", "y")]
        with pytest.raises(CorruptFileError, match="deep"):
            FORMAT.read(save(model(nodes, functions=deep, opsets=LOCAL), tmp_path))


@pytest.mark.parametrize("inside", [False, True])
def test_functions_that_double_are_refused_before_they_are_inlined(
    inside: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each calls the next one twice, at its top or in a branch."""
    inlined = []
    monkeypatch.setattr(onnx_graph, "_body", lambda *given: inlined.append(given))
    doubling = []
    for k in range(40):
        twice = [call(f"f{k + 1}", "a", "m"), call(f"f{k + 1}", "m", "b")]
        if inside:
            graph = helper.make_graph(twice, "branch", [], [value("b")])
            twice = [helper.make_node("If", ["a"], ["b"], then_branch=graph, else_branch=graph)]
        doubling.append(function(f"f{k}", twice))
    proto = model([call("f0", "x", "y")], functions=doubling, opsets=LOCAL)
    with pytest.raises(UnsupportedError, match="inlined"):
        FORMAT.read(save(proto, tmp_path))
    assert inlined == []


def test_a_function_called_hundreds_of_times_is_inlined(tmp_path: Path) -> None:
    layer = function("layer", [helper.make_node("Relu", ["a"], ["h"]), helper.make_node("Neg", ["h"], ["b"])])
    nodes = [call("layer", f"v{k}", f"v{k + 1}") for k in range(500)]
    proto = model(nodes, functions=[layer], opsets=LOCAL, inputs=(value("v0"),), outputs=("v500",))
    assert len(graph_of(read(proto, tmp_path)).nodes) == 1000


def test_calls_whose_names_come_to_too_much(tmp_path: Path) -> None:
    """A name of 1 MB in a body is made again by each call of it."""
    long = "n" * (1 << 20)
    body = [helper.make_node("Relu", ["a"], [long]), helper.make_node("Relu", [long], ["b"])]
    nodes = [call("f", f"v{k}", f"v{k + 1}") for k in range(100)]
    proto = model(nodes, functions=[function("f", body)], opsets=LOCAL, inputs=(value("v0"),), outputs=("v100",))
    with pytest.raises(UnsupportedError, match="names"):
        FORMAT.read(save(proto, tmp_path))


def test_a_graph_handed_to_a_function_counts_as_often_as_it_is_used(tmp_path: Path) -> None:
    """A branch of many nodes as an attribute of a call, which the function uses a thousand times."""
    many = [helper.make_node("Relu", ["a"], ["h0"])]
    many += [helper.make_node("Relu", [f"h{k}"], [f"h{k + 1}"]) for k in range(400)]
    body = helper.make_graph(many, "many", [], [value("h400")])
    uses = []
    for k in range(1000):
        use = helper.make_node("If", ["a"], ["b" if k == 999 else f"m{k}"])
        for name in ("then_branch", "else_branch"):
            use.attribute.add(name=name, ref_attr_name="body", type=onnx.AttributeProto.GRAPH)
        uses.append(use)
    proto = model([call("f", "x", "y", body=body)], functions=[function("f", uses, attributes=["body"])], opsets=LOCAL)
    with pytest.raises(UnsupportedError, match="inlined"):
        FORMAT.read(save(proto, tmp_path))


def test_attributes_are_plain_values(tmp_path: Path) -> None:
    node = helper.make_node(
        "Odd", ["x"], ["y"], domain="my.domain", i=3, f=0.5, s="same", ints=[1, -2], floats=[0.5], strings=["a", "b"],
        t=numpy_helper.from_array(weights()), typ=helper.make_tensor_type_proto(1, [3]),
    )  # fmt: skip
    (found,) = graph_of(read(model([node], opsets=[*MAIN, helper.make_opsetid("my.domain", 1)]), tmp_path)).nodes
    assert found.op == "my.domain::odd"
    attrs = dict(found.attrs)
    tensor = attrs.pop("t")
    assert isinstance(tensor, Tensor)
    np.testing.assert_array_equal(tensor.load(), weights())
    assert attrs == {"i": 3, "f": 0.5, "s": "same", "ints": (1, -2), "floats": (0.5,), "strings": ("a", "b")}


def test_the_module_that_torch_was_running(tmp_path: Path) -> None:
    node = helper.make_node("Relu", ["x"], ["y"])
    node.metadata_props.add(key="pkg.torch.onnx.name_scopes", value="['', 'encoder', 'encoder.act', 'relu']")
    (found,) = graph_of(read(model([node]), tmp_path)).nodes
    assert found.attrs == {"@scope": "encoder.act"}


def test_shapes(tmp_path: Path) -> None:
    proto = model([helper.make_node("Relu", ["x"], ["h"]), helper.make_node("Relu", ["h"], ["y"])])
    proto.graph.input[0].CopyFrom(value("x", ["batch", 4, None]))
    proto.graph.input.append(value("unused"))
    proto.graph.value_info.append(value("h", ["batch", 4, 7]))
    proto.graph.value_info.append(value("gone", [1]))
    graph = graph_of(read(proto, tmp_path))
    assert graph.inputs == {"x": (None, 4, None), "unused": None}
    assert graph.shapes == {"x": (None, 4, None), "h": (None, 4, 7)}
