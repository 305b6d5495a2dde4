/* logouts MODULE: four threads open sessions, find a key and sign, while the program logs out and in again 20 times. Says
 * how many signatures were made, and every answer that neither a logged-in nor a logged-out thread may get. */
#include "host.h"

static CK_FUNCTION_LIST *list;
static CK_SLOT_ID slot;
static atomic_bool over;
static atomic_int made;

static bool may_be(CK_RV rv)
{
    return rv == CKR_OK || rv == CKR_USER_NOT_LOGGED_IN || rv == CKR_KEY_HANDLE_INVALID || rv == CKR_SESSION_HANDLE_INVALID ||
           rv == CKR_OPERATION_NOT_INITIALIZED;
}

static void sign_once(CK_SESSION_HANDLE session)
{
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_ATTRIBUTE wanted = {CKA_CLASS, &class, sizeof class};
    CK_MECHANISM mechanism = {CKM_ECDSA, NULL, 0};
    CK_BYTE hash[32] = {1}, signature[64];
    CK_ULONG count = 0, length = sizeof signature;
    CK_OBJECT_HANDLE key;
    if (list->C_FindObjectsInit(session, &wanted, 1))
        return;
    list->C_FindObjects(session, &key, 1, &count);
    list->C_FindObjectsFinal(session);
    if (!count)
        return;
    CK_RV rv = list->C_SignInit(session, &mechanism, key);
    if (!rv)
        rv = list->C_Sign(session, hash, sizeof hash, signature, &length);
    made += rv == CKR_OK;
    if (!may_be(rv))
        say("signature 0x%lx", rv);
}

static void *work(void *unused)
{
    CK_SESSION_HANDLE session;
    while (!over)
        if (!list->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &session)) {
            sign_once(session);
            list->C_CloseSession(session);
        }
    return unused;
}

int main(int argc, char **argv)
{
    CK_C_INITIALIZE_ARGS arguments = {.flags = CKF_OS_LOCKING_OK};
    CK_SESSION_HANDLE session;
    CK_ULONG count = 1;
    pthread_t threads[4];
    list = load(argv[argc - 1]);
    must(list->C_Initialize(&arguments));
    must(list->C_GetSlotList(CK_TRUE, &slot, &count));
    must(list->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &session));
    must(list->C_Login(session, CKU_USER, (CK_UTF8CHAR *)PIN, strlen(PIN)));
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, work, NULL);
    for (int i = 0; i < 20; i++) {
        for (int before = made; made < before + 4;)
            usleep(1000); /* until the threads have signed once more: the test's time limit ends it otherwise */
        must(list->C_Logout(session));
        must(list->C_Login(session, CKU_USER, (CK_UTF8CHAR *)PIN, strlen(PIN)));
    }
    over = true;
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    must(list->C_Finalize(NULL));
    say("signatures %d", made >= 80);
    return 0;
}
