/* jail MODULE DIRECTORY STEP: changes the root directory of the process to DIRECTORY after a step (load, initialize, session, login,
 * sign), and goes on: it tells the answers from there on. The last ones need code that no step before has loaded. */
#include "host.h"

static CK_FUNCTION_LIST *list;
static signer who;
static const char *directory, *step;
static bool moved;

static void after(const char *name)
{
    if (strcmp(name, step))
        return;
    if (chroot(directory) || chdir("/")) {
        say("chroot: %s", strerror(errno));
        _exit(2);
    }
    moved = true;
}

static void tell(const char *name, CK_RV rv)
{
    if (moved)
        say("%s 0x%lx", name, rv);
    else
        must(rv);
}

static CK_OBJECT_HANDLE find(CK_OBJECT_CLASS class, CK_KEY_TYPE type)
{
    CK_ATTRIBUTE wanted[] = { { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &type, sizeof type } };
    CK_OBJECT_HANDLE found = 0;
    CK_ULONG count = 0;
    tell("C_FindObjectsInit", list->C_FindObjectsInit(who.session, wanted, 2));
    tell("C_FindObjects", list->C_FindObjects(who.session, &found, 1, &count));
    tell("C_FindObjectsFinal", list->C_FindObjectsFinal(who.session));
    return found;
}

static CK_BYTE signature[512], digest[32];
static CK_ULONG length;

static void sign_with(const char *name, CK_KEY_TYPE type, CK_MECHANISM_TYPE mechanism)
{
    CK_OBJECT_HANDLE key = find(CKO_PRIVATE_KEY, type);
    length = sizeof signature;
    CK_RV rv = list->C_SignInit(who.session, &(CK_MECHANISM){ mechanism, NULL, 0 }, key);
    tell(name, rv ? rv : list->C_Sign(who.session, digest, sizeof digest, signature, &length));
}

int main(int argc, char **argv)
{
    CK_SLOT_ID slot = 0;
    CK_ULONG count = 1;
    directory = argv[argc - 2], step = argv[argc - 1];
    list = load(argv[1]);
    after("load");
    tell("C_Initialize", list->C_Initialize(NULL));
    after("initialize");
    tell("C_GetSlotList", list->C_GetSlotList(CK_TRUE, &slot, &count));
    tell("C_OpenSession", list->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &who.session));
    after("session");
    tell("C_Login", list->C_Login(who.session, CKU_USER, (CK_BYTE *)PIN, strlen(PIN)));
    after("login");
    sign_with("ECDSA", CKK_EC, CKM_ECDSA);
    after("sign");
    sign_with("ECDSA again", CKK_EC, CKM_ECDSA);
    sign_with("ECDSA_SHA384", CKK_EC, CKM_ECDSA_SHA384);
    sign_with("RSA", CKK_RSA, CKM_SHA256_RSA_PKCS);
    tell("C_GenerateRandom", list->C_GenerateRandom(who.session, digest, sizeof digest));
    /* what is needed here is an extension module that nothing has loaded */
    CK_OBJECT_HANDLE key = find(CKO_PUBLIC_KEY, CKK_EC);
    CK_RV rv = list->C_VerifyInit(who.session, &(CK_MECHANISM){ CKM_ECDSA, NULL, 0 }, key);
    tell("verify", rv ? rv : list->C_Verify(who.session, digest, sizeof digest, signature, length));
    tell("C_Finalize", list->C_Finalize(NULL));
    tell("again", list->C_Initialize(NULL));
    return 0;
}
