"""Any server that speaks one of the two dialects, as an engine."""
