/* Hashes without the Python modules for them, some of which (_sha2 of Python 3.12) free what they have hashed as it is, and
 * without the parts of libcrypto that take locks, which a fork would leave taken in the child. */

#include "hash.h"

#include <stdlib.h>
#include <string.h>

typedef union hash_state hash_state;

#define LONGEST_BLOCK SHA512_CBLOCK

struct hash_kind {
    int size;     /* of a digest, in bytes */
    size_t block; /* bytes that are hashed at a time */
    void (*begin)(hash_state *state);
    void (*add)(hash_state *state, const void *data, size_t size);
    void (*end)(hash_state *state, uint8_t *digest);
};

#define FUNCTIONS(name, member)                                                    \
    static void begin_##name(hash_state *state)                                    \
    {                                                                              \
        name##_Init(&state->member);                                               \
    }                                                                              \
    static void add_##name(hash_state *state, const void *data, size_t size)       \
    {                                                                              \
        name##_Update(&state->member, data, size);                                 \
    }                                                                              \
    static void end_##name(hash_state *state, uint8_t *digest)                     \
    {                                                                              \
        name##_Final(digest, &state->member);                                      \
    }

FUNCTIONS(SHA1, sha1)
FUNCTIONS(SHA224, sha256)
FUNCTIONS(SHA256, sha256)
FUNCTIONS(SHA384, sha512)
FUNCTIONS(SHA512, sha512)

static const struct hash_kind kinds[] = {
    { SHA_DIGEST_LENGTH, SHA_CBLOCK, begin_SHA1, add_SHA1, end_SHA1 },
    { SHA224_DIGEST_LENGTH, SHA256_CBLOCK, begin_SHA224, add_SHA224, end_SHA224 },
    { SHA256_DIGEST_LENGTH, SHA256_CBLOCK, begin_SHA256, add_SHA256, end_SHA256 },
    { SHA384_DIGEST_LENGTH, SHA512_CBLOCK, begin_SHA384, add_SHA384, end_SHA384 },
    { SHA512_DIGEST_LENGTH, SHA512_CBLOCK, begin_SHA512, add_SHA512, end_SHA512 },
};

static void begin(hash *at, int digest_size)
{
    const struct hash_kind *kind = kinds;
    while (kind->size < digest_size)
        kind++;
    at->kind = kind;
    kind->begin(&at->state);
}

void hash_add(hash *at, const uint8_t *data, size_t size)
{
    at->kind->add(&at->state, data, size);
}

static void end(hash *at, uint8_t *digest)
{
    at->kind->end(&at->state, digest);
    explicit_bzero(at, sizeof *at);
}

hash *hash_new(int digest_size)
{
    hash *new = malloc(sizeof *new);
    if (new)
        begin(new, digest_size);
    return new;
}

void hash_result(const hash *at, uint8_t *digest)
{
    hash copy = *at;
    end(&copy, digest);
}

void hash_free(hash *at)
{
    explicit_bzero(at, sizeof *at);
    free(at);
}

void hash_digest(int digest_size, const uint8_t *data, size_t size, uint8_t *digest)
{
    hash at;
    begin(&at, digest_size);
    hash_add(&at, data, size);
    end(&at, digest);
}

void hmac_begin(hmac *begun, int digest_size, const uint8_t *key, size_t size)
{
    uint8_t block[LONGEST_BLOCK] = { 0 };
    begin(&begun->inner, digest_size);
    begin(&begun->outer, digest_size);
    size_t length = begun->inner.kind->block;
    if (size > length)
        hash_digest(digest_size, key, size, block);
    else
        memcpy(block, key, size);
    for (size_t i = 0; i < length; i++)
        block[i] ^= 0x36;
    hash_add(&begun->inner, block, length);
    for (size_t i = 0; i < length; i++)
        block[i] ^= 0x36 ^ 0x5c;
    hash_add(&begun->outer, block, length);
    explicit_bzero(block, sizeof block);
}

void hmac_end(const hmac *begun, const uint8_t *first, size_t first_size, const uint8_t *data, size_t size, uint8_t *mac)
{
    hmac at = *begun;
    hash_add(&at.inner, first, first_size);
    hash_add(&at.inner, data, size);
    size_t length = (size_t)at.inner.kind->size;
    end(&at.inner, mac);
    hash_add(&at.outer, mac, length);
    end(&at.outer, mac);
}

void hash_mac(int digest_size, const uint8_t *key, size_t key_size, const uint8_t *data, size_t size, uint8_t *mac)
{
    hmac begun;
    hmac_begin(&begun, digest_size, key, key_size);
    hmac_end(&begun, data, size, NULL, 0, mac);
    explicit_bzero(&begun, sizeof begun);
}
