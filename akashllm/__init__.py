"""akashllm: from a model's name to a private, verified endpoint on the Akash Network."""
