"""On real models, tokenizers, templates and data, all of them fetched: `scripts/test --real`."""
