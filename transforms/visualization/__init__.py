"""Pictures of a volume and labels."""
