"""What is trained: low-rank adapters, and the file formats that they travel in."""
