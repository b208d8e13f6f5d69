import pytest

from docs import generate


@pytest.mark.parametrize("name", ["rules.md", "schemes.md", "activations.md", "tags.md", "operations.md"])
def test_generated_pages_are_current(name):
    assert (generate.HERE / name).read_text() == generate.pages()[name], "run: python3 dev.py docs"


def test_the_readme_shows_what_check_prints(monkeypatch, capsys):
    from initaudit.cli import main

    monkeypatch.chdir(generate.HERE.parent)
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setattr("sys.argv", ["initaudit", "check", "fixtures/broken.onnx"])
    with pytest.raises(SystemExit):
        main()
    assert capsys.readouterr().out.strip() in (generate.HERE.parent / "README.md").read_text()
