"""From tensors to layers."""
