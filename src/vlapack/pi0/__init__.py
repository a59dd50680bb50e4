"""π0 and π0.5 in plain torch, under openpi's parameter names. Knows no quantization but `linear.project`."""
