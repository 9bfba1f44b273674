"""What a number is: the operations that the decoder needs, and what they run on."""
