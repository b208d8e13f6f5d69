"""Helpers: archives of exported programs, written by hand or with torch."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

FLOAT = 7


def meta(shape: tuple[int, ...], dtype: int = FLOAT, strides: tuple[int, ...] | None = None, offset: int = 0) -> Any:
    steps = strides if strides is not None else tuple(int(np.prod(shape[k + 1 :])) for k in range(len(shape)))
    numbers = {"sizes": [{"as_int": n} for n in shape], "strides": [{"as_int": n} for n in steps]}
    device = {"type": "cpu", "index": None}
    return {
        "dtype": dtype, **numbers, "storage_offset": {"as_int": offset}, "layout": 7, "requires_grad": True,
        "device": device,
    }  # fmt: skip


def tensor(name: str) -> Any:
    return {"as_tensor": {"name": name}}


def node(target: str, out: list[str], /, *args: Any, stack: str = "", **kwargs: Any) -> Any:
    inputs = [{"name": f"a{k}", "arg": arg, "kind": 1} for k, arg in enumerate(args)]
    inputs += [{"name": key, "arg": arg, "kind": 2} for key, arg in kwargs.items()]
    metadata = {"nn_module_stack": f"L__self__,,a.Net;L__self__x,{stack},a.B"} if stack else {}
    full = target if "." in target else f"torch.ops.aten.{target}.default"
    return {"target": full, "inputs": inputs, "outputs": [tensor(n) for n in out], "metadata": metadata}


def graph(inputs: list[str], nodes: list[Any], outputs: list[str], values: Mapping[str, Any] | None = None) -> Any:
    return {
        "inputs": [tensor(n) for n in inputs], "nodes": nodes, "outputs": [tensor(n) for n in outputs],
        "tensor_values": dict(values or {}), "sym_int_values": {}, "sym_bool_values": {},
    }  # fmt: skip


def program(whole: Any, parameters: Mapping[str, str], users: tuple[str, ...] = ("x",)) -> Any:
    """Return a program; `parameters` maps what the graph calls a parameter to its dotted name."""
    specs: list[Any] = [
        {"parameter": {"arg": {"name": inner}, "parameter_name": name}} for inner, name in parameters.items()
    ]
    specs += [{"user_input": {"arg": tensor(name)}} for name in users]
    ends = [{"user_output": {"arg": one}} for one in whole["outputs"]]
    signature = {"input_specs": specs, "output_specs": ends}
    return {
        "graph_module": {"graph": whole, "signature": signature, "module_call_graph": []},
        "schema_version": {"major": 8, "minor": 20},
        "torch_version": "2.13.0",
    }


def two_layers() -> Any:
    """Return the program of two linear layers with a ReLU between them."""
    nodes = [
        node("linear", ["linear"], tensor("x"), tensor("p_a_weight"), stack="a"),
        node("relu", ["relu"], tensor("linear")),
        node("linear", ["linear_1"], tensor("relu"), tensor("p_b_weight"), stack="b"),
    ]
    names = {"p_a_weight": "a.weight", "p_b_weight": "b.weight"}
    values = {"x": meta((1, 3)), "linear": meta((1, 4)), "relu": meta((1, 4)), "linear_1": meta((1, 2))}
    return program(graph([*names, "x"], nodes, ["linear_1"], values), names)


def weights() -> dict[str, np.ndarray[Any, Any]]:
    return {
        "a.weight": np.arange(12, dtype=np.float32).reshape(4, 3) / 7,
        "b.weight": np.arange(8, dtype=np.float32).reshape(2, 4) / 5,
    }


def members(
    record: Any = None, arrays: Mapping[str, np.ndarray[Any, Any]] | None = None, stem: str = "m/"
) -> dict[str, bytes]:
    """Return the members of an archive in the current layout."""
    held = weights() if arrays is None else arrays
    table = {
        name: {"path_name": f"weight_{k}", "is_param": True, "use_pickle": False, "tensor_meta": meta(array.shape)}
        for k, (name, array) in enumerate(held.items())
    }
    made = {f"{stem}data/weights/weight_{k}": array.tobytes() for k, array in enumerate(held.values())}
    made[f"{stem}data/weights/model_weights_config.json"] = dumped({"config": table})
    made[f"{stem}data/constants/model_constants_config.json"] = dumped({"config": {}})
    made[f"{stem}models/model.json"] = dumped(two_layers() if record is None else record)
    made |= {f"{stem}archive_format": b"pt2", f"{stem}archive_version": b"0", f"{stem}byteorder": b"little"}
    return made


def dumped(value: Any) -> bytes:
    return json.dumps(value).encode()


def packed(parts: Mapping[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in parts.items():
            archive.writestr(name, content)
    return out.getvalue()


def write(folder: Path, parts: Mapping[str, bytes] | bytes, name: str = "model.pt2") -> Path:
    path = folder / name
    path.write_bytes(parts if isinstance(parts, bytes) else packed(parts))
    return path
