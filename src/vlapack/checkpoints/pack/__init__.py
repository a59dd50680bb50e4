"""The pack's own files: configuration, weights with checksums, model card, and their writer."""
