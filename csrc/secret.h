/* Secrets that are kept for as long as a login or a session lasts, and what is computed with them. */

#pragma once

#include <stddef.h>
#include <stdint.h>

#define SECRET_SIZE 256 /* bytes that a secret may have */

/* A place for a secret of at most SECRET_SIZE bytes. NULL: no memory. */
uint8_t *secret_new(void);

/* Overwrites a secret and gives its place back. */
void secret_free(uint8_t *secret);

/* Hides or uncovers `size` bytes in place by the mask that KDFa makes of a secret and of `fixed`, which is all that its HMACs
 * are of but for the counter: TPM 2.0 Part 1, clauses 11.4.7 and 11.4.10.2. */
void secret_mask(const uint8_t *secret, size_t secret_size, const uint8_t *fixed, size_t fixed_size, uint8_t *bytes, size_t size);
