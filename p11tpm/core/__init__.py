"""A run of the library, its sessions and tokens, and what the TPM does for one token."""
