"""Architectures that libraries know by name: `--arch timm:NAME`, `torchvision:NAME`, `hf:FOLDER`.

Only the library's own code runs: never code from a checkpoint, and nothing is downloaded.
"""

from __future__ import annotations

import ast
import importlib
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from initaudit.errors import CorruptFileError, UnsupportedError, UsageError
from initaudit.formats.json_text import json_file
from initaudit.live.callables import users_code

_KEPT: list[Any] = []  # a library's operators are gone once it is
_FORM = "--arch takes timm:NAME, torchvision:NAME or hf:FOLDER (NAME,key=value,... sets options)"


def resolve(given: str) -> Callable[[], nn.Module]:
    """Return a function that builds the architecture with fresh weights.

    Raises:
        UsageError: the library is not installed or does not know the name.
        UnsupportedError: the folder asks for code of its own.
    """
    library, colon, name = given.partition(":")
    makers = {"timm": _timm, "torchvision": _torchvision, "hf": _folder}
    if not colon or not name or library not in makers:
        raise UsageError(f"{_FORM}, not {given!r}")
    make = makers[library](name)

    def build() -> nn.Module:
        with users_code(f"building {given}"):
            return make()

    return build


def _needed(package: str, extra: str) -> Any:
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise UsageError(f"{package} is not installed: pip install {extra}") from None


def _options(given: str) -> tuple[str, dict[str, Any]]:
    """Split "resnet18,num_classes=10" into the name and the options of its constructor."""
    name, *pairs = given.split(",")
    options: dict[str, Any] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"{_FORM}; {pair!r} is no key=value")
        try:
            options[key] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            options[key] = text
    return name, options


def _timm(given: str) -> Callable[[], nn.Module]:
    name, options = _options(given)
    if ":" in name or "/" in name:
        raise UsageError(f"timm builds {name!r} from a download or a folder; give the plain name of an architecture")
    _with_torchvision()
    timm = _needed("timm", "timm")
    plain = name.partition(".")[0]
    if not timm.is_model(plain):
        raise UsageError(f"timm has no model {plain!r}{_near(plain, timm.list_models())}")
    return lambda: _module(timm.create_model(plain, pretrained=False, **options), given)


def _torchvision(given: str) -> Callable[[], nn.Module]:
    name, options = _options(given)
    _with_torchvision()
    models = _needed("torchvision.models", "torchvision")
    if name.lower() not in models.list_models():
        raise UsageError(f"torchvision has no model {name!r}{_near(name, models.list_models())}")
    if "weights_backbone" in inspect.signature(models.get_model_builder(name)).parameters:
        options = {"weights_backbone": None, **options}
    return lambda: _module(models.get_model(name, weights=None, **options), given)


def _with_torchvision() -> None:
    """Import torchvision if there is one, beside a torch for which its compiled operators were not built as well."""
    try:
        importlib.import_module("torchvision")
    except ImportError:
        return
    except RuntimeError:
        library: Any = torch.library.Library("torchvision", "FRAGMENT")  # type: ignore[no-untyped-call]
        for name in ("nms", "qnms"):
            library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
        _KEPT.append(library)
        importlib.import_module("torchvision")


def _near(name: str, known: list[str]) -> str:
    from difflib import get_close_matches  # noqa: PLC0415  only to say sorry

    near = get_close_matches(name, known, 3)
    return f"; near it are {', '.join(near)}" if near else ""


def _folder(given: str) -> Callable[[], nn.Module]:
    """Read a HuggingFace folder's config.json; the class that it names must be the library's own."""
    path = Path(given)
    if path.name == "config.json":
        path = path.parent
    if (path / "model_index.json").is_file():
        parts = sorted(one.parent.name for one in path.glob("*/config.json"))
        raise UsageError(f"a diffusers pipeline of several models; give one of its folders: {', '.join(parts)}", given)
    if (path / "adapter_config.json").is_file() and not (path / "config.json").is_file():
        raise UsageError("an adapter, which has no architecture of its own: give its base model's folder", given)
    if not (path / "config.json").is_file():
        raise UsageError("no config.json in this folder" if path.is_dir() else "no such folder", given)
    try:
        config = json_file(path / "config.json", strict=False)
    except CorruptFileError as error:
        raise error.at(str(path / "config.json")) from None
    maker = _diffusers if "_class_name" in config else _transformers
    return maker(given, config)


def _diffusers(given: str, config: dict[str, Any]) -> Callable[[], nn.Module]:
    _with_torchvision()
    diffusers = _needed("diffusers", "diffusers")
    name = str(config["_class_name"])
    cls: Any = getattr(diffusers, name, None) if name.isidentifier() else None
    if not (inspect.isclass(cls) and issubclass(cls, nn.Module)):
        raise UnsupportedError(f"diffusers {diffusers.__version__} has no model class {name!r}", given)
    build: Any = cls
    return lambda: _module(build.from_config(config), given)


def _transformers(given: str, config: dict[str, Any]) -> Callable[[], nn.Module]:
    _with_torchvision()
    transformers = _needed("transformers", "transformers")
    kind = str(config.get("model_type", ""))
    known = importlib.import_module("transformers.models.auto.configuration_auto").CONFIG_MAPPING
    own = [str(name) for name in config.get("architectures") or ()]
    name = own[0] if own else ""
    cls = getattr(transformers, name, None) if name.isidentifier() else None
    if kind not in known or (name and cls is None):
        what = f"class {name!r}" if name and kind in known else f"model type {kind!r}"
        if config.get("auto_map"):
            raise UnsupportedError(f"{what} is code of its own (auto_map), which is never run", given)
        raise UnsupportedError(f"transformers {transformers.__version__} has no {what}", given)
    settings = known[kind].from_dict(_quiet(config))
    maker = cls if cls is not None else transformers.AutoModel

    return lambda: _module(_from_config(maker, settings), given)


def _from_config(maker: Any, settings: Any) -> Any:
    return maker._from_config(settings) if hasattr(maker, "_from_config") else maker.from_config(settings)


def _quiet(config: dict[str, Any]) -> dict[str, Any]:
    """Leave out what would need other packages: how the weights were packed is the checkpoint's business."""
    return {key: value for key, value in config.items() if key not in ("quantization_config", "auto_map")}


def _module(made: Any, given: str) -> nn.Module:
    if not isinstance(made, nn.Module):
        raise UsageError(f"{given} gave a {type(made).__name__}, not a torch.nn.Module")
    return made
