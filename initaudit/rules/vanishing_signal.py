"""INI501."""

from __future__ import annotations

from collections.abc import Iterator

from initaudit.registry import rule
from initaudit.symptoms import cases, redraw_run
from initaudit.types import Audit, Finding, Severity


@rule("INI501", Severity.ERROR)
def vanishing_signal(audit: Audit) -> Iterator[Finding]:
    """Inputs differ less and less on the way up, until nothing is left to tell them apart by.

    ## Why it matters
    What a layer hands on differs between inputs by less than what it took in; through many such layers the difference
    shrinks geometrically. The output hardly depends on the input, and so does every gradient.

    ## How it is measured
    Per layer the variance across inputs of what it hands on, per unit, before its activation: of a small batch where
    the probe runs, by theory elsewhere. The second moment misleads: in a deep sigmoid net activations stay large while
    all inputs map to one point. How grave it is says the risk that was fitted on nets that were really trained.

    ## When to ignore it
    Branches behind a zero or small gate start silent on purpose; they are not counted where the trunk around them is
    alive. A head that starts at zero is no run of layers.

    ## Seen in the wild
    pytorch/pytorch#15314 (torch's default is 0.41 of He's std), mlpack/mlpack#3651 (variance given where std was
    meant), zishansami102/CNN-from-Scratch#8 (divided by the fan twice).

    ## Source
    Glorot and Bengio 2010, eq. 5; He et al. 2015, eq. 9; per unit across inputs: Poole et al. 2016, eq. 3 to 5.
    """
    for case in cases(vanishing_signal, audit):
        yield case.finding(
            f"inputs differ less and less going up: {case.path}the variance across inputs falls to {case.value} of what"
            f" it was{case.rate}{case.reach}",
            redraw_run(case),
            **case.variances,
        )
