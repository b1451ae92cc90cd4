"""Every method again, in plain PyTorch: the oracles that the compiled models are held to."""
