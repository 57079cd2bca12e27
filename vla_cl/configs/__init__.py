"""YAML presets that are shipped with the package."""
