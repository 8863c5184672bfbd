"""Go's `text/template`, as far as chat templates of Ollama's library need it.

A Modelfile's TEMPLATE is a program in Go's template language. It is read (`scanning`, `parsing`) into a tree
(`tree`) and run (`running`) by an interpreter that knows only the plain values it is given: no attribute of
a Python object can be named from a template, and every run has limits of steps, depth and text. What a
template sees and when it is run are Ollama's rules (`template`). The language is described in the
documentation of Go's package text/template; Go's own implementation judges ours in tests/go.
"""
