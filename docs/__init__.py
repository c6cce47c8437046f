"""Pages about the project, and the scripts that draw their pictures."""
