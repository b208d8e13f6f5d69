"""The graph in canonical form: what small operations amount to together."""
