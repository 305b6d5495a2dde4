/* The way to a signature, step by step, and how long a step takes. */
#include "../host/host.h"

#include <spawn.h>
#include <time.h>

typedef struct {
    const char *name;
    CK_MECHANISM_TYPE generate, sign;
    CK_ULONG input, output; /* bytes */
    const char *params; /* CKA_EC_PARAMS: a named curve's OID in DER */
    CK_ULONG params_size;
} kind;

static const kind kinds[] = {
    { "p256", CKM_EC_KEY_PAIR_GEN, CKM_ECDSA, 32, 64, "\x06\x08\x2a\x86\x48\xce\x3d\x03\x01\x07", 10 },
    { "p384", CKM_EC_KEY_PAIR_GEN, CKM_ECDSA, 48, 96, "\x06\x05\x2b\x81\x04\x00\x22", 7 },
    { "rsa", CKM_RSA_PKCS_KEY_PAIR_GEN, CKM_RSA_PKCS, 51, 256, NULL, 0 }, /* input as long as SHA-256's DigestInfo */
};

static const char *path;
static CK_FUNCTION_LIST *module;
static CK_SLOT_ID slot;
static CK_SESSION_HANDLE session;
static _Atomic CK_RV last_error; /* of a signature, in whatever thread */

static double microseconds(clockid_t clock)
{
    struct timespec time;
    clock_gettime(clock, &time);
    return (double)time.tv_sec * 1e6 + (double)time.tv_nsec / 1e3;
}

static double now(void)
{
    return microseconds(CLOCK_MONOTONIC);
}

static const kind *kind_of(const char *name)
{
    for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++)
        if (!strcmp(kinds[i].name, name))
            return &kinds[i];
    say("no kind %s", name);
    _exit(2);
}

static void step_load(void)
{
    module = load(path);
}

static void step_initialize(void)
{
    CK_C_INITIALIZE_ARGS arguments = { .flags = CKF_OS_LOCKING_OK };
    must(module->C_Initialize(&arguments));
}

static void step_slots(void)
{
    CK_SLOT_ID slots[16];
    CK_ULONG count = 16;
    must(module->C_GetSlotList(CK_TRUE, slots, &count));
    if (!count) {
        say("no slot");
        _exit(2);
    }
    slot = slots[0];
}

static void step_session(void)
{
    must(module->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &session));
}

static void step_login(void)
{
    must(module->C_Login(session, CKU_USER, (CK_BYTE *)PIN, strlen(PIN)));
}

static void step_close(void)
{
    must(module->C_Finalize(NULL));
}

static double timed(void (*step)(void))
{
    double start = now();
    step();
    return now() - start;
}

/* Finds private keys by CKA_ID or CKA_LABEL; how many there are. */
static CK_ULONG find(CK_SESSION_HANDLE in, CK_ATTRIBUTE_TYPE type, const char *name, CK_OBJECT_HANDLE *key)
{
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_ATTRIBUTE wanted[] = { { CKA_CLASS, &class, sizeof class }, { type, (void *)name, strlen(name) } };
    CK_ULONG count = 0;
    must(module->C_FindObjectsInit(in, wanted, 2));
    must(module->C_FindObjects(in, key, 1, &count));
    must(module->C_FindObjectsFinal(in));
    return count;
}

static CK_OBJECT_HANDLE find_one(CK_SESSION_HANDLE in, const char *name)
{
    CK_OBJECT_HANDLE key = 0;
    if (find(in, CKA_ID, name, &key) != 1) {
        say("no key %s", name);
        _exit(2);
    }
    return key;
}

/* Anything but a signature of the right length is a failure. */
static bool sign_once(CK_SESSION_HANDLE in, const kind *how, CK_OBJECT_HANDLE key)
{
    CK_MECHANISM mechanism = { how->sign, NULL, 0 };
    CK_BYTE data[64], signature[512];
    CK_ULONG size = sizeof signature;
    memset(data, 0x11, sizeof data);
    CK_RV rv = module->C_SignInit(in, &mechanism, key);
    if (rv == CKR_OK)
        rv = module->C_Sign(in, data, how->input, signature, &size);
    if (rv != CKR_OK)
        last_error = rv;
    return rv == CKR_OK && size == how->output;
}
