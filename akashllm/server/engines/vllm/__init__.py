"""vLLM in a child process, under an interpreter of its own; the service imports `engine` and `options` only."""
