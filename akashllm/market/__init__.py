"""Where deployments run: one Protocol (`base`), the markets, and what drives any of them (`deploy`).

Nothing is imported here: the supervisor (`local_run`) lives for as long as its service and stays small.
"""
