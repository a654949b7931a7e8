"""Many processes that train one model, and what each back end does in its own way."""
