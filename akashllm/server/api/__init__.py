"""Routes, one module a dialect: parse, ask the runtime, serialise."""
