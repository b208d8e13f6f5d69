"""The fit of risk, written by `python -m benchmarks.trainability --fit`: nothing here is set by hand."""

# fmt: off
SLOPE = {"slow": 4.29, "loud": 5.74, "rough": 3.2, "tied": 16.2, "idle": 11.6}  # per decade
HALF = {"slow": 3.64, "loud": 2.88, "rough": 2.06, "tied": 0.523, "idle": 0.664}  # where it alone gives one half
BASE = 0.0145  # without any of them
WARNING = 0.209
ERROR = 0.625
# fmt: on
