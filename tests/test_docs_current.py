import pytest

from docs import generate


@pytest.mark.parametrize("name", ["rules.md", "schemes.md", "activations.md"])
def test_generated_pages_are_current(name):
    assert (generate.HERE / name).read_text() == generate.pages()[name], "run: python3 dev.py docs"
