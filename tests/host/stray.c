/* stray MODULE TYPE...: begins all that there is with mechanisms that take no parameter, on keys of several types: with
 * no parameter, and with an address and a length that mean nothing. It tells where the answers differ, and how often
 * each function succeeded. */
#include "host.h"

static CK_FUNCTION_LIST *list;
static CK_SESSION_HANDLE session;
static CK_BBOOL yes = CK_TRUE;
static CK_ULONG bits = 2048, length = 16, secret = CKO_SECRET_KEY, generic = CKK_GENERIC_SECRET;
static CK_BYTE p256[] = { 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07 };
static CK_ATTRIBUTE of_secret[] = {
    { CKA_EXTRACTABLE, &yes, 1 }, { CKA_SIGN, &yes, 1 },    { CKA_VERIFY, &yes, 1 }, { CKA_ENCRYPT, &yes, 1 },
    { CKA_DECRYPT, &yes, 1 },     { CKA_WRAP, &yes, 1 },    { CKA_UNWRAP, &yes, 1 }, { CKA_DERIVE, &yes, 1 },
    { CKA_VALUE_LEN, &length, sizeof length },
};
static CK_ATTRIBUTE of_rsa[] = {
    { CKA_MODULUS_BITS, &bits, sizeof bits }, { CKA_VERIFY_RECOVER, &yes, 1 }, { CKA_WRAP, &yes, 1 },
};
static CK_ATTRIBUTE of_rsa_private[] = { { CKA_SIGN_RECOVER, &yes, 1 }, { CKA_UNWRAP, &yes, 1 } };
static CK_ATTRIBUTE of_ec[] = { { CKA_EC_PARAMS, p256, sizeof p256 } };
static CK_ATTRIBUTE unwrapped[] = { { CKA_CLASS, &secret, sizeof secret }, { CKA_KEY_TYPE, &generic, sizeof generic } };

static CK_RV generate(CK_MECHANISM *mechanism, CK_OBJECT_HANDLE *made)
{
    CK_ULONG fixed = mechanism->mechanism == CKM_DES2_KEY_GEN || mechanism->mechanism == CKM_DES3_KEY_GEN;
    return list->C_GenerateKey(session, mechanism, of_secret, fixed ? 8 : 9, made);
}

static CK_RV generate_pair(CK_MECHANISM *mechanism, CK_OBJECT_HANDLE made[2])
{
    if (mechanism->mechanism == CKM_EC_KEY_PAIR_GEN)
        return list->C_GenerateKeyPair(session, mechanism, of_ec, 1, NULL, 0, &made[0], &made[1]);
    return list->C_GenerateKeyPair(session, mechanism, of_rsa, 3, of_rsa_private, 2, &made[0], &made[1]);
}

/* Functions that begin an operation, which a NULL mechanism ends. */
#define BEGINS(name)                                                                \
    static CK_RV name(CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key)                \
    {                                                                               \
        CK_RV rv = list->C_##name##Init(session, mechanism, key);                   \
        if (rv == CKR_OK)                                                           \
            must(list->C_##name##Init(session, NULL, key));                         \
        return rv;                                                                  \
    }
BEGINS(Encrypt)
BEGINS(Decrypt)
BEGINS(Sign)
BEGINS(SignRecover)
BEGINS(Verify)
BEGINS(VerifyRecover)

static CK_RV Digest(CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key)
{
    (void)key;
    CK_RV rv = list->C_DigestInit(session, mechanism);
    if (rv == CKR_OK)
        must(list->C_DigestInit(session, NULL));
    return rv;
}

static CK_RV DeriveKey(CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key)
{
    CK_OBJECT_HANDLE made;
    return list->C_DeriveKey(session, mechanism, key, NULL, 0, &made);
}

static CK_OBJECT_HANDLE extractable;
static CK_BYTE wrapped[512];
static CK_ULONG wrapped_length;

static CK_RV WrapKey(CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key)
{
    wrapped_length = sizeof wrapped;
    return list->C_WrapKey(session, mechanism, key, extractable, wrapped, &wrapped_length);
}

/* Unwraps what the key wraps: with an RSA public key, what comes next among the keys is its private one. */
static CK_RV UnwrapKey(CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key)
{
    CK_OBJECT_HANDLE made;
    CK_MECHANISM plain = { mechanism->mechanism, NULL, 0 };
    if (WrapKey(&plain, key) != CKR_OK && WrapKey(&plain, key - 1) != CKR_OK)
        wrapped_length = 16;
    return list->C_UnwrapKey(session, mechanism, key, wrapped, wrapped_length, unwrapped, 2, &made);
}

static CK_RV GenerateKey(CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key)
{
    CK_OBJECT_HANDLE made;
    return key == extractable ? generate(mechanism, &made) : CKR_KEY_TYPE_INCONSISTENT;
}

static CK_RV GenerateKeyPair(CK_MECHANISM *mechanism, CK_OBJECT_HANDLE key)
{
    CK_OBJECT_HANDLE made[2];
    return key == extractable ? generate_pair(mechanism, made) : CKR_KEY_TYPE_INCONSISTENT;
}

#define ROW(name) { "C_" #name, name, 0 }
static struct {
    const char *name;
    CK_RV (*call)(CK_MECHANISM *, CK_OBJECT_HANDLE);
    int good;
} functions[] = {
    ROW(Digest), ROW(Encrypt),   ROW(Decrypt), ROW(Sign),      ROW(SignRecover), ROW(Verify),
    ROW(VerifyRecover), ROW(DeriveKey), ROW(WrapKey), ROW(UnwrapKey), ROW(GenerateKey), ROW(GenerateKeyPair),
};

int main(int argc, char **argv)
{
    static const CK_MECHANISM_TYPE makers[] = { CKM_AES_KEY_GEN, CKM_DES3_KEY_GEN, CKM_GENERIC_SECRET_KEY_GEN },
                                   pairs[] = { CKM_RSA_PKCS_KEY_PAIR_GEN, CKM_EC_KEY_PAIR_GEN };
    CK_OBJECT_HANDLE keys[7];
    int count = 0;
    list = load(argv[1]);
    must(list->C_Initialize(NULL));
    session = log_in(list).session;
    for (size_t i = 0; i < sizeof makers / sizeof *makers; i++)
        must(generate(&(CK_MECHANISM){ makers[i], NULL, 0 }, &keys[count++]));
    for (size_t i = 0; i < sizeof pairs / sizeof *pairs; i++, count += 2)
        must(generate_pair(&(CK_MECHANISM){ pairs[i], NULL, 0 }, &keys[count]));
    extractable = keys[2];
    for (int which = 2; which < argc; which++)
        for (size_t row = 0; row < sizeof functions / sizeof *functions; row++)
            for (int key = 0; key < count; key++) {
                CK_MECHANISM_TYPE type = strtoul(argv[which], NULL, 0);
                CK_MECHANISM none = { type, NULL, 0 };
                CK_MECHANISM strays[] = { { type, (void *)0x123456789, 16 }, { type, NULL, 0x80000000 } };
                CK_RV right = functions[row].call(&none, keys[key]);
                functions[row].good += right == CKR_OK;
                for (int stray = 0; stray < 2; stray++) {
                    CK_RV rv = functions[row].call(&strays[stray], keys[key]);
                    if (rv != right)
                        say("%s, mechanism 0x%lx, key %d: 0x%lx, not 0x%lx", functions[row].name, type, key, rv, right);
                }
            }
    for (size_t row = 0; row < sizeof functions / sizeof *functions; row++)
        say("%s succeeded %d times", functions[row].name, functions[row].good);
    must(list->C_Finalize(NULL));
    return 0;
}
