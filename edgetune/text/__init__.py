"""What is learned: a person's rows become token ids, and a mask that says which of them are trained."""
