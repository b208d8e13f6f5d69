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

HELPERS = {"orthogonal_": ORTHOGONAL, "delta_orthogonal_": DELTA, "first_singular_": SPECTRAL}
