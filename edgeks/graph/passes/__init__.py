"""One pass per file. A pass is `model (and what it needs) → a note for the ledger`; it changes the model in place."""
