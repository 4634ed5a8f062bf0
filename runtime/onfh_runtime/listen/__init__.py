"""The scanner-side node: images in, answers out, nothing lost."""
