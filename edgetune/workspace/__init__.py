"""What a face may do: list and follow runs, plan them, start them."""
