"""The rules, listed in one tuple: no registry, nothing registers itself."""
