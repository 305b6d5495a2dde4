/* many MODULE: 100 keys used in turn, 16 threads with a key each, 4,096 open sessions. Says one signature of each key. */
#include "host.h"

enum { KEYS = 100, THREADS = 16, SIGNATURES = 20, SESSIONS = 4096 };

static signer keys[KEYS];

static signer make(CK_FUNCTION_LIST *list, CK_SESSION_HANDLE session, CK_BYTE *point, CK_ULONG *point_length)
{
    CK_BBOOL yes = CK_TRUE;
    CK_BYTE p256[] = { 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07 };
    CK_MECHANISM mechanism = { CKM_EC_KEY_PAIR_GEN, NULL, 0 };
    CK_ATTRIBUTE public[] = { { CKA_TOKEN, &yes, 1 }, { CKA_EC_PARAMS, p256, sizeof p256 } };
    CK_ATTRIBUTE private[] = { { CKA_TOKEN, &yes, 1 } };
    CK_ATTRIBUTE wanted = { CKA_EC_POINT, point, *point_length };
    CK_OBJECT_HANDLE verifier;
    signer one = { .list = list, .session = session };
    must(list->C_GenerateKeyPair(session, &mechanism, public, 2, private, 1, &verifier, &one.key));
    must(list->C_GetAttributeValue(session, verifier, &wanted, 1));
    *point_length = wanted.ulValueLen;
    return one;
}

static void *work(void *argument)
{
    signer mine = *(signer *)argument;
    CK_BYTE signature[64];
    must(mine.list->C_OpenSession(slot_of_test(mine.list), CKF_SERIAL_SESSION, NULL, NULL, &mine.session));
    for (int i = 0; i < SIGNATURES; i++)
        must(sign(mine, signature));
    must(mine.list->C_CloseSession(mine.session));
    return NULL;
}

static void in_turn(void)
{
    CK_BYTE signature[64];
    for (int round = 0; round < 2; round++)
        for (int i = 0; i < KEYS; i++) {
            must(sign(keys[i], signature));
            if (round)
                say_signature(signature);
        }
}

static void in_threads(void)
{
    pthread_t threads[THREADS];
    for (int i = 0; i < THREADS; i++)
        pthread_create(&threads[i], NULL, work, &keys[i]);
    for (int i = 0; i < THREADS; i++)
        pthread_join(threads[i], NULL);
}

static void in_sessions(CK_FUNCTION_LIST *list, CK_SLOT_ID slot)
{
    static CK_SESSION_HANDLE sessions[SESSIONS];
    CK_BYTE signature[64];
    for (int i = 0; i < SESSIONS; i++)
        must(list->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &sessions[i]));
    for (int i = 0; i < SESSIONS; i += 64) {
        signer one = { .list = list, .session = sessions[i], .key = keys[i % KEYS].key };
        must(sign(one, signature));
    }
    CK_TOKEN_INFO info;
    must(list->C_GetTokenInfo(slot, &info));
    say("sessions %lu", info.ulSessionCount);
    for (int i = 0; i < SESSIONS; i++)
        must(list->C_CloseSession(sessions[i]));
}

int main(int argc, char **argv)
{
    CK_FUNCTION_LIST *list = load(argv[argc - 1]);
    CK_SESSION_HANDLE session;
    must(list->C_Initialize(NULL));
    CK_SLOT_ID slot = slot_of_test(list);
    must(list->C_OpenSession(slot, CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));
    must(list->C_Login(session, CKU_USER, (CK_BYTE *)PIN, strlen(PIN)));
    for (int i = 0; i < KEYS; i++) {
        CK_BYTE point[100];
        CK_ULONG length = sizeof point;
        char text[2 * sizeof point + 1];
        keys[i] = make(list, session, point, &length);
        for (CK_ULONG j = 0; j < length; j++)
            sprintf(text + 2 * j, "%02x", point[j]);
        say("key %s", text);
    }
    in_turn();
    in_threads();
    in_sessions(list, slot);
    must(list->C_Finalize(NULL));
    return 0;
}
