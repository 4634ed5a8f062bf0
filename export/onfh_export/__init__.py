"""Training and export of the two stages; the only package that needs PyTorch."""
