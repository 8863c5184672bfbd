# The verbs. Each is one script or one tool; CI calls the same ones.
bin := .venv/bin
.PHONY: try test fix docs bench clean
try:    ; scripts/try
test:   ; scripts/test
fix:    ; $(bin)/ruff format . && $(bin)/ruff check --fix .
docs:   ; $(bin)/python scripts/docs.py
bench:  ; $(bin)/python benchmarks/serving.py
clean:  ; rm -rf .venv .mypy_cache .ruff_cache .pytest_cache dist
