"""The fit of risk, written by `python -m benchmarks.trainability --fit`: nothing here is set by hand."""

# fmt: off
SLOPE = {"slow": 6.49, "loud": 5.73, "rough": 3.21, "tied": 16.2, "idle": 11.6}  # per decade
HALF = {"slow": 1.99, "loud": 2.88, "rough": 2.06, "tied": 0.523, "idle": 0.664}  # where it alone gives a risk of one half
BASE = 0.0144  # without any of them
WARNING = 0.2
ERROR = 0.625
# fmt: on
