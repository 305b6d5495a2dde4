/* logins MODULE PIN...: what a login with each PIN answers, on the tokens in turn; all tokens are tried if there is one
 * PIN. With fault.c preloaded, FAULT is the errno with which every write fails from the first login on. */
#include "host.h"

int main(int argc, char **argv)
{
    CK_SLOT_ID slots[64];
    CK_SESSION_HANDLE session;
    CK_ULONG count = 64;
    CK_FUNCTION_LIST *list = load(argv[1]);
    void (*arm)(int, int) = (void (*)(int, int))dlsym(RTLD_DEFAULT, "fault_arm");
    must(list->C_Initialize(NULL));
    must(list->C_GetSlotList(CK_TRUE, slots, &count));
    if (arm)
        arm(0, atoi(getenv("FAULT")));
    for (CK_ULONG slot = 0; slot < (argc == 3 ? count : 1); slot++)
        for (int i = 2; i < argc; i++) {
            must(list->C_OpenSession(slots[slot], CKF_SERIAL_SESSION, NULL, NULL, &session));
            say("login 0x%lx", list->C_Login(session, CKU_USER, (CK_UTF8CHAR *)argv[i], strlen(argv[i])));
            must(list->C_CloseSession(session));
        }
    must(list->C_Finalize(NULL));
    return 0;
}
