"""Reading and writing of all image formats, by one reader and one writer."""
