"""How long an artefact takes: one runner script in a fresh process, here or on a board, and what its samples say."""
