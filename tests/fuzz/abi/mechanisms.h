/* Mechanisms: the keys that they take, and their parameters (Current Mechanisms 3.0). What a mechanism does, the token says. */

#define HKDF_KEY 0x42UL
enum { NONE, IV16, IV8, CTR, GCM, CCM, OAEP, PSS, ECDH, MAC_LENGTH, OTHER_KEY, STRING, CBC_DATA16, CBC_DATA8, HKDF, PUBLIC_VALUE, WRAP_IV };

typedef struct row {
    CK_MECHANISM_TYPE type;
    CK_ULONG key; /* type */
    int parameter;
    int unit;           /* the data's length is a multiple of it; less than 0: it is exactly that long */
    CK_ULONG hash, mgf; /* of PSS */
    CK_FLAGS does;      /* as the token says */
} row;

#define RSA_PSS(hash, mgf) { CKM_##hash##_RSA_PKCS_PSS, CKK_RSA, PSS, 1, hash##_TYPE, mgf }
#define SHA1_TYPE CKM_SHA_1
#define SHA224_TYPE CKM_SHA224
#define SHA256_TYPE CKM_SHA256
#define SHA384_TYPE CKM_SHA384
#define SHA512_TYPE CKM_SHA512

static row rows[] = {
    { CKM_RSA_PKCS_KEY_PAIR_GEN, CKK_RSA }, { CKM_RSA_PKCS, CKK_RSA, NONE, 1 }, { CKM_RSA_X_509, CKK_RSA, NONE, -256 },
    { CKM_RSA_PKCS_OAEP, CKK_RSA, OAEP, 1 }, { CKM_RSA_PKCS_PSS, CKK_RSA, PSS, -32, CKM_SHA256, 2 },
    { CKM_MD5_RSA_PKCS, CKK_RSA, NONE, 1 }, { CKM_SHA1_RSA_PKCS, CKK_RSA, NONE, 1 }, { CKM_SHA256_RSA_PKCS, CKK_RSA, NONE, 1 },
    { CKM_SHA384_RSA_PKCS, CKK_RSA, NONE, 1 }, { CKM_SHA512_RSA_PKCS, CKK_RSA, NONE, 1 },
    RSA_PSS(SHA1, 1), RSA_PSS(SHA256, 2), RSA_PSS(SHA384, 3), RSA_PSS(SHA512, 4),
    { CKM_EC_KEY_PAIR_GEN, CKK_EC }, { CKM_ECDSA, CKK_EC, NONE, -32 }, { CKM_ECDSA_SHA1, CKK_EC, NONE, 1 },
    { 0x1044 /* CKM_ECDSA_SHA256 */, CKK_EC, NONE, 1 }, { 0x1046 /* CKM_ECDSA_SHA512 */, CKK_EC, NONE, 1 },
    { CKM_ECDH1_DERIVE, CKK_EC, ECDH }, { CKM_ECDH1_COFACTOR_DERIVE, CKK_EC, ECDH },
    { CKM_DSA, CKK_DSA, NONE, -20 }, { CKM_DSA_SHA256, CKK_DSA, NONE, 1 }, { CKM_DH_PKCS_DERIVE, CKK_DH, PUBLIC_VALUE },
    { CKM_AES_KEY_GEN, CKK_AES }, { CKM_AES_ECB, CKK_AES, NONE, 16 }, { CKM_AES_CBC, CKK_AES, IV16, 16 },
    { CKM_AES_CBC_PAD, CKK_AES, IV16, 1 }, { CKM_AES_CTR, CKK_AES, CTR, 1 }, { CKM_AES_CFB128, CKK_AES, IV16, 1 },
    { CKM_AES_GCM, CKK_AES, GCM, 1 }, { CKM_AES_CCM, CKK_AES, CCM, -48 }, { CKM_AES_MAC, CKK_AES, NONE, 1 },
    { CKM_AES_MAC_GENERAL, CKK_AES, MAC_LENGTH, 1 }, { CKM_AES_CMAC, CKK_AES, NONE, 1 },
    { CKM_AES_CMAC_GENERAL, CKK_AES, MAC_LENGTH, 1 }, { CKM_AES_KEY_WRAP, CKK_AES, WRAP_IV, 16 },
    { CKM_AES_KEY_WRAP_PAD, CKK_AES, WRAP_IV, 1 }, { 0x210B /* CKM_AES_KEY_WRAP_KWP */, CKK_AES, WRAP_IV, 1 },
    { CKM_AES_ECB_ENCRYPT_DATA, CKK_AES, STRING }, { CKM_AES_CBC_ENCRYPT_DATA, CKK_AES, CBC_DATA16 },
    { CKM_DES3_KEY_GEN, CKK_DES3 }, { CKM_DES3_ECB, CKK_DES3, NONE, 8 }, { CKM_DES3_CBC, CKK_DES3, IV8, 8 },
    { CKM_DES3_CBC_PAD, CKK_DES3, IV8, 1 }, { CKM_DES3_MAC, CKK_DES3, NONE, 1 }, { CKM_DES3_MAC_GENERAL, CKK_DES3, MAC_LENGTH, 1 },
    { 0x138 /* CKM_DES3_CMAC */, CKK_DES3, NONE, 1 }, { CKM_DES3_ECB_ENCRYPT_DATA, CKK_DES3, STRING },
    { CKM_DES3_CBC_ENCRYPT_DATA, CKK_DES3, CBC_DATA8 },
    { CKM_GENERIC_SECRET_KEY_GEN, CKK_GENERIC_SECRET }, { 0x402C /* CKM_HKDF_KEY_GEN */, HKDF_KEY },
    { CKM_MD5_HMAC, CKK_GENERIC_SECRET, NONE, 1 }, { CKM_SHA_1_HMAC, CKK_GENERIC_SECRET, NONE, 1 },
    { CKM_SHA256_HMAC, CKK_GENERIC_SECRET, NONE, 1 }, { CKM_SHA512_HMAC, CKK_GENERIC_SECRET, NONE, 1 },
    { CKM_SHA256_HMAC_GENERAL, CKK_GENERIC_SECRET, MAC_LENGTH, 1 }, { CKM_SHA384_HMAC_GENERAL, CKK_GENERIC_SECRET, MAC_LENGTH, 1 },
    { CKM_SHA1_KEY_DERIVATION, CKK_GENERIC_SECRET }, { CKM_SHA256_KEY_DERIVATION, CKK_GENERIC_SECRET },
    { CKM_CONCATENATE_BASE_AND_KEY, CKK_GENERIC_SECRET, OTHER_KEY }, { CKM_CONCATENATE_BASE_AND_DATA, CKK_GENERIC_SECRET, STRING },
    { CKM_CONCATENATE_DATA_AND_BASE, CKK_GENERIC_SECRET, STRING }, { CKM_XOR_BASE_AND_DATA, CKK_GENERIC_SECRET, STRING },
    { 0x402A /* CKM_HKDF_DERIVE */, HKDF_KEY, HKDF }, { 0x402B /* CKM_HKDF_DATA */, HKDF_KEY, HKDF },
    { CKM_MD5, 0, NONE, 1 }, { CKM_SHA_1, 0, NONE, 1 }, { CKM_SHA224, 0, NONE, 1 }, { CKM_SHA256, 0, NONE, 1 },
    { CKM_SHA384, 0, NONE, 1 }, { CKM_SHA512, 0, NONE, 1 }, { 0x2B0 /* CKM_SHA3_256 */, 0, NONE, 1 }, { 0x2D0 /* CKM_SHA3_512 */, 0, NONE, 1 },
};
enum { ROWS = sizeof rows / sizeof *rows };

static const uint8_t base_point[] = { /* of P-256, uncompressed: SEC 2, clause 2.4.2 */
    0x04, 0x6B, 0x17, 0xD1, 0xF2, 0xE1, 0x2C, 0x42, 0x47, 0xF8, 0xBC, 0xE6, 0xE5, 0x63, 0xA4, 0x40, 0xF2, 0x77, 0x03, 0x7D, 0x81, 0x2D,
    0xEB, 0x33, 0xA0, 0xF4, 0xA1, 0x39, 0x45, 0xD8, 0x98, 0xC2, 0x96, 0x4F, 0xE3, 0x42, 0xE2, 0xFE, 0x1A, 0x7F, 0x9B, 0x8E, 0xE7, 0xEB,
    0x4A, 0x7C, 0x0F, 0x9E, 0x16, 0x2B, 0xCE, 0x33, 0x57, 0x6B, 0x31, 0x5E, 0xCE, 0xCB, 0xB6, 0x40, 0x68, 0x37, 0xBF, 0x51, 0xF5,
};

/* A class of keys with which a mechanism can do this; the other one that can, if `second`. */
static CK_ULONG class_for(CK_FLAGS does, bool second)
{
    if (second)
        return CKO_SECRET_KEY;
    return does & (CKF_VERIFY | CKF_ENCRYPT | CKF_WRAP | CKF_VERIFY_RECOVER) ? CKO_PUBLIC_KEY : CKO_PRIVATE_KEY;
}

static object *key_for(world *w, const row *r, CK_FLAGS does)
{
    object *found = object_with(w, class_for(does, false), r->key);
    return found ? found : object_with(w, class_for(does, true), r->key);
}

/* Chooses a mechanism that does this, with a key if it takes one. RSA key pairs take a second each, so that they are rare. */
static void choose_mechanism(world *w, CK_FLAGS does)
{
    size_t first = below(&w->d, ROWS);
    call *c = &w->c;
    for (size_t i = 0; i < ROWS && does; i++) {
        const row *r = &rows[(first + i) % ROWS];
        bool makes = does & (CKF_GENERATE | CKF_GENERATE_KEY_PAIR | CKF_DIGEST);
        object *key = makes ? NULL : key_for(w, r, does);
        bool rare = does & CKF_GENERATE_KEY_PAIR && r->key == CKK_RSA && !chance(&w->d, 1);
        if (r->does & does && (makes || key) && !rare) {
            c->row = r;
            c->key = key ? *key : (object){ 0 };
            return;
        }
    }
    c->row = PICK(&w->d, ((const row *const[]){ &rows[0], &rows[ROWS / 2] }));
}
