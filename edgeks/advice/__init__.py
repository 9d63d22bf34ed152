"""Which form, which runtime profile and how many threads for a model: tried here, measured, and recommended."""
