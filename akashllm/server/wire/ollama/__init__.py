"""Ollama's dialect: requests in, chunks out. Pure conversions; the routes are in `server/api/ollama.py`.

The contract is that of Ollama 0.33 (`api/types.go`, `server/routes.go`): names, order and omission of fields,
texts and statuses of errors. Deviations are few and on purpose: an option or a format of the wrong type is
400 and not 500, `stop` may be one string, a template in the request is refused, and whether a model thinks
unasked is left to its template.
"""
