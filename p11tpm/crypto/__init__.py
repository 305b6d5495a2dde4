"""Software cryptography that knows no token: hashes, padding, DER, modes of block ciphers, public keys."""
