"""The fit of risk, written by `python -m benchmarks.trainability --fit`: nothing here is set by hand."""

# fmt: off
SLOPE = {"slow": 4.71, "loud": 6.74, "rough": 4.23, "tied": 15.9}  # per decade
HALF = {"slow": 3.86, "loud": 3.04, "rough": 1.99, "tied": 0.515}  # where it alone gives a risk of one half
BASE = 0.0143  # without any of them
WARNING = 0.2
ERROR = 0.5
# fmt: on
