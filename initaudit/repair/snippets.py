"""Pieces of torch code that emitted modules hold where torch.nn.init has no such function."""

from __future__ import annotations

ORTHOGONAL = '''
def orthogonal_(w: torch.Tensor, gain: float = 1.0) -> None:
    """Fill a view (out, in, *kernel), in any layout and dtype: all its singular values become the gain."""
    w.copy_(torch.nn.init.orthogonal_(torch.empty(w.shape, device=w.device), gain))
'''

DELTA = '''
def delta_orthogonal_(w: torch.Tensor, gain: float = 1.0) -> None:
    """Fill a view (out, in, *kernel): orthogonal at the kernel's centre, zero elsewhere (Xiao et al. 2018)."""
    drawn = torch.empty(w.shape[:2], device=w.device)
    centre = tuple(size // 2 for size in w.shape[2:])
    w.zero_()
    w[(slice(None), slice(None), *centre)] = torch.nn.init.orthogonal_(drawn, gain).to(w.dtype)
'''

SPECTRAL = '''
def first_singular_(u: torch.Tensor, v: torch.Tensor | None, w: torch.Tensor) -> None:
    """Fill spectral_norm's vectors for a new weight by power iteration, as it does itself at the start."""
    matrix = (w if u.numel() == w.shape[0] else w.transpose(0, 1)).flatten(1)
    right = torch.nn.functional.normalize(torch.randn(matrix.shape[1]).to(w), dim=0)
    for _ in range(15):
        left = torch.nn.functional.normalize(matrix @ right, dim=0)
        right = torch.nn.functional.normalize(matrix.mT @ left, dim=0)
    u.copy_(left)
    if v is not None:
        v.copy_(right)
'''

COMPLETE = '''
def complete_(w: torch.Tensor, units: list[int], gain: float = 1.0) -> None:
    """Draw units of a view (out, in, *kernel) that make it orthogonal again beside those that stay."""
    if not units:
        return
    stay = [n for n in range(len(w)) if n not in units]
    kept = w.flatten(1)[stay].double() / gain
    rows, columns = len(w), kept.shape[1]
    drawn = torch.randn(len(units), columns).to(kept)
    if rows <= columns:
        basis = torch.linalg.qr(kept.T)[0]
        drawn = torch.linalg.qr((drawn - drawn @ basis @ basis.T).T)[0].T
    else:
        values, vectors = torch.linalg.eigh(torch.eye(columns).to(kept) - kept.T @ kept)
        factor = (values.clamp(min=0).sqrt() * vectors).T[-len(units) :]
        fits = values.min() > -0.01 and (values[: -len(units)] < 0.01).all()
        turn = torch.nn.init.orthogonal_(torch.empty(len(units), len(factor))).to(kept)
        drawn = turn @ factor if fits else drawn / rows**0.5
    w[units] = (gain * drawn).view(-1, *w.shape[1:]).to(w)
'''

HELPERS = {"complete_": COMPLETE, "orthogonal_": ORTHOGONAL, "delta_orthogonal_": DELTA, "first_singular_": SPECTRAL}
