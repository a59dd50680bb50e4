"""The network as packs run it: merged products, and what stands between two products as one op (`ops.fused`)."""
