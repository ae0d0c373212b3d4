"""From label files and images to the common table and the pixel store."""
