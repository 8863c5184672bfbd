"""Per-dialect request and response types, and pure conversions to and from the neutral words."""
