"""What a bundle's config says, and its checks."""
