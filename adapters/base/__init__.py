"""The base model: device and BLAS set-up, load, fingerprint, tokenizer and template."""
