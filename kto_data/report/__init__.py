"""Findings as text for people and documents for machines."""
