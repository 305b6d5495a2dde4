/* Elliptic curve Diffie-Hellman for salted sessions. */

#pragma once

#include <stdint.h>

/* One ephemeral key agreement on P-256 or P-384 (`bits`); all numbers big-endian, bits / 8 bytes long. `scalar` is the
 * private key in 1 ... order - 1, (x, y) the other side's point. Gives the own point and the x of the shared one; 0, or
 * -1 for a point that is not on the curve, another curve or a lack of memory. */
int ecdh(int bits, const uint8_t *scalar, const uint8_t *x, const uint8_t *y,
         uint8_t *own_x, uint8_t *own_y, uint8_t *shared_x);
