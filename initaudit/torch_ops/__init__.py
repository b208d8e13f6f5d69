"""From calls of torch functions to the canonical graph: one table, for whoever recorded or read the calls."""
