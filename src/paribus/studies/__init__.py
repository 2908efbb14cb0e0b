"""Studies that are shipped with the package."""
