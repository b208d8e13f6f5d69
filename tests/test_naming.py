import pytest

from initaudit.naming import folded, places


@pytest.mark.parametrize(
    ("given", "told"),
    [
        ((), ""),
        ((3,), "3"),
        ((3, 17), "3 and 17"),
        ((3, 17, 41), "3, 17 and 41"),
        (tuple(range(32)), "0-31"),
        ((0, 1, 2, 7), "0-2 and 7"),
        (tuple(range(0, 24, 2)), "0, 2, 4, 6, 8, 10, 12, 14 and 4 more"),
    ],
)
def test_numbers_are_told_in_runs(given, told):
    assert places(given) == told


def test_names_alike_but_for_numbers_are_one():
    assert folded(["h.0.fc", "head", "h.1.fc", "out.2"]) == ["h.N.fc", "head", "out.2"]
