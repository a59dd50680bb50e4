"""The mathematics of quantization: tensors in, tensors out; no model, no file, no command."""
