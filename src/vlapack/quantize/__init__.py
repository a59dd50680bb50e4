"""Quantizing the linears of any `nn.Module`: transforms, calibration, groups. Knows no policy, no checkpoint."""
