"""The llama.cpp engine: a continuous-batching scheduler over llama-cpp-python's low-level interface."""
