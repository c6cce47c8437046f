"""Every image format behind one reader and one writer."""
