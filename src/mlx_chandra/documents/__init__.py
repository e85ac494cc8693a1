"""Finds documents and opens their pages as pictures."""
