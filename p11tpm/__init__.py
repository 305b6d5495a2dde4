"""p11tpm: a PKCS#11 provider module backed by a TPM 2.0."""

__version__ = "0.1.0"
