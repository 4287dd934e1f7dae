"""Measurements side by side with PyTorch; see README.md. Never run by tests."""
