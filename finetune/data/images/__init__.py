"""Pictures: where they lie, whether they can be used, and their pixels. PIL's only door."""
