"""How objects come to be: they are created, copied, generated, derived and unwrapped."""
