"""Engines, and what they share: one file each, and what runs in their child processes."""
