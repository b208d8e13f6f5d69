import re

import pytest

from docs import generate


@pytest.mark.parametrize(
    "name", ["rules.md", "schemes.md", "activations.md", "tags.md", "operations.md", "symmetry.md"]
)
def test_generated_pages_are_current(name):
    assert (generate.HERE / name).read_text() == generate.pages()[name], "run: python3 dev.py docs"


def test_the_readme_shows_what_check_and_fix_print():
    assert (generate.ROOT / "README.md").read_text() == generate.readme(), "run: python3 dev.py docs"


def test_the_generator_shows_what_the_commands_print(monkeypatch, capsys, tmp_path):
    from initaudit.cli import main

    (tmp_path / "fixtures").mkdir()
    (tmp_path / "fixtures" / "broken.onnx").write_bytes((generate.ROOT / "fixtures" / "broken.onnx").read_bytes())
    commands = (
        ("check fixtures/broken.onnx", generate.checked, generate.ROOT),
        ("fix fixtures/broken.onnx", generate.fixed, tmp_path),
        ("show fixtures/tied.onnx --symmetry", generate.freed, generate.ROOT),
    )
    monkeypatch.setenv("COLUMNS", "100")
    for command, shown, root in commands:
        monkeypatch.chdir(root)
        expected = shown()
        monkeypatch.setattr("sys.argv", ["initaudit", *command.split()])
        with pytest.raises(SystemExit):
            main()
        assert capsys.readouterr().out == expected


def test_the_page_on_repair_names_every_key_and_every_option(monkeypatch):
    from typer.main import get_command

    from initaudit.cli import app
    from initaudit.repair import fixing, manifest

    page = (generate.HERE / "fix.md").read_text()
    monkeypatch.chdir(generate.ROOT)
    with fixing.pending("fixtures/broken.onnx", fixing.Wish(force=True), fixing.Judge()) as waiting:
        told = manifest.document(waiting.repair)
    first, summary = told["changes"][0], told["summary"]
    keys = {*told, *first, *first["from"], *summary, *summary["after"]}
    assert not {key for key in keys if f"`{key}`" not in page}
    fix = get_command(app).commands["fix"]  # type: ignore[attr-defined]
    own = {name for option in fix.params for name in option.opts if name.startswith("--")}
    shared = {"--input", "--names", "--activation", "--select", "--ignore", "--jobs", "--quiet", "--verbose", "--probe"}
    assert not {name for name in own - shared if not re.search(rf"{name}\b", page)}


def test_the_page_on_symmetry_has_an_example():
    assert f"{generate._FREED}fixtures/tied.onnx" in (generate.HERE / "symmetry.md").read_text()
