/* limit MODULE: has room for 0, 1, 2 ... descriptors more after it has closed all of the module's, and calls it. Says what went
 * well with how many, and last gives a signature. */
#include "host.h"
#include <sys/resource.h>

enum { ROOM = 8 };

static void set_limit(rlim_t most)
{
    struct rlimit limit;
    getrlimit(RLIMIT_NOFILE, &limit);
    limit.rlim_cur = most;
    if (setrlimit(RLIMIT_NOFILE, &limit))
        _exit(3);
}

/* An error that is not about the PIN, which is right. */
static bool went_well(CK_RV rv, const char *what)
{
    if (rv == CKR_PIN_INCORRECT || rv == CKR_PIN_LOCKED || rv >= CKR_VENDOR_DEFINED)
        say("%s: 0x%lx", what, rv);
    return rv == CKR_OK;
}

int main(int argc, char **argv)
{
    CK_BYTE signature[64];
    CK_ULONG count = 1;
    CK_OBJECT_HANDLE key;
    CK_FUNCTION_LIST *list = load(argv[argc - 1]);
    must(list->C_Initialize(NULL));
    signer who = log_in(list);
    must(sign(who, signature));
    for (int room = 0; room <= ROOM; room++) {
        char text[ROOM * 8] = "";
        close_range(3, ~0U, 0);
        set_limit(3 + (rlim_t)room);
        if (went_well(sign(who, signature), "C_Sign"))
            strcat(text, " sign");
        if (went_well(list->C_FindObjectsInit(who.session, NULL, 0), "C_FindObjectsInit")
            && went_well(list->C_FindObjects(who.session, &key, 1, &count), "C_FindObjects")
            && went_well(list->C_FindObjectsFinal(who.session), "C_FindObjectsFinal"))
            strcat(text, " find");
        must(list->C_Logout(who.session));
        if (went_well(list->C_Login(who.session, CKU_USER, (CK_BYTE *)PIN, strlen(PIN)), "C_Login"))
            strcat(text, " login");
        set_limit(64);
        who = log_in(list);
        must(sign(who, signature));
        say("%d:%s", room, text);
    }
    must(list->C_Finalize(NULL));
    say_signature(signature);
    return 0;
}
