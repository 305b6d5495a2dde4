"""Families of mechanisms: what each of them can do with keys, and how its keys come to be."""
