/* Hashes of FIPS 180-4, SHA-1 and SHA-2, and their HMACs (RFC 2104): by the functions of libcrypto that need nothing else of it,
 * as in ecdh.c. A hash is known by the bytes of its digest. Nothing of what was hashed is left in memory. */

#pragma once

#include <stddef.h>
#include <stdint.h>
#define OPENSSL_SUPPRESS_DEPRECATED /* for SHA256_Init() and the others of its kind */
#include <openssl/sha.h>

typedef struct hash {
    const struct hash_kind *kind;
    union hash_state {
        SHA_CTX sha1;
        SHA256_CTX sha256;
        SHA512_CTX sha512;
    } state;
} hash;

/* An HMAC's two hashes, which have begun with its key. */
typedef struct {
    hash inner, outer;
} hmac;

void hash_add(hash *at, const uint8_t *data, size_t size);

void hmac_begin(hmac *begun, int digest_size, const uint8_t *key, size_t size);

/* Makes the HMAC of two pieces of data, one after the other; more may be made. */
void hmac_end(const hmac *begun, const uint8_t *first, size_t first_size, const uint8_t *data, size_t size, uint8_t *mac);

/* For Python. `digest_size`: 20, 28, 32, 48 or 64. */

/* Begins a hash. NULL: no memory. */
hash *hash_new(int digest_size);

/* Gives the digest of what was added until now; more may be added. */
void hash_result(const hash *at, uint8_t *digest);

void hash_free(hash *at);

void hash_digest(int digest_size, const uint8_t *data, size_t size, uint8_t *digest);
void hash_mac(int digest_size, const uint8_t *key, size_t key_size, const uint8_t *data, size_t size, uint8_t *mac);
