"""What is computed: the spec of a model, its weights, and the decoder that is written once."""
