"""How the weights of each family of models become a Transformer."""
