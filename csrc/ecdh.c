/* Elliptic curve Diffie-Hellman for salted sessions.
 *
 * Plain group arithmetic: neither EVP, nor engines, nor a random generator that the host's OpenSSL configuration could
 * replace, possibly by this very module. */

#include "ecdh.h"

#include <stdbool.h>
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/obj_mac.h>

static bool put(const BIGNUM *number, uint8_t *out, int size)
{
    return BN_bn2binpad(number, out, size) == size;
}

int ecdh(int bits, const uint8_t *scalar, const uint8_t *x, const uint8_t *y,
         uint8_t *own_x, uint8_t *own_y, uint8_t *shared_x)
{
    int nid = bits == 256 ? NID_X9_62_prime256v1 : bits == 384 ? NID_secp384r1 : NID_undef;
    int size = bits / 8;
    EC_GROUP *group = nid == NID_undef ? NULL : EC_GROUP_new_by_curve_name(nid);
    if (!group)
        return -1;
    EC_POINT *theirs = EC_POINT_new(group), *result = EC_POINT_new(group);
    BN_CTX *context = BN_CTX_new();
    BIGNUM *d = BN_bin2bn(scalar, size, NULL), *px = BN_bin2bn(x, size, NULL), *py = BN_bin2bn(y, size, NULL);
    bool done = theirs && result && context && d && px && py;
    if (done) {
        BN_set_flags(d, BN_FLG_CONSTTIME);
        done = EC_POINT_set_affine_coordinates(group, theirs, px, py, context) == 1 /* refuses points off the curve */
            && EC_POINT_is_on_curve(group, theirs, context) == 1
            && EC_POINT_mul(group, result, d, NULL, NULL, context) == 1
            && EC_POINT_get_affine_coordinates(group, result, px, py, context) == 1
            && put(px, own_x, size) && put(py, own_y, size)
            && EC_POINT_mul(group, result, NULL, theirs, d, context) == 1
            && EC_POINT_get_affine_coordinates(group, result, px, py, context) == 1
            && put(px, shared_x, size);
    }
    BN_clear_free(d);
    BN_clear_free(px);
    BN_clear_free(py);
    EC_POINT_clear_free(result);
    EC_POINT_free(theirs);
    BN_CTX_free(context);
    EC_GROUP_free(group);
    return done ? 0 : -1;
}
