/* impostor MODULE: a program that exports functions of the same names as the module's, or (-DVERSION) as Python's. */
#include "host.h"

#ifdef VERSION
__attribute__((visibility("default"))) const char *Py_GetVersion(void) { return VERSION; }
__attribute__((visibility("default"))) int Py_IsInitialized(void) { abort(); }
__attribute__((visibility("default"))) int PyGILState_Check(void) { abort(); }
__attribute__((visibility("default"))) void Py_InitializeEx(int signals) { (void)signals, abort(); }
#else
CK_RV C_GetInfo(CK_INFO *info) { (void)info; return CKR_FUNCTION_REJECTED; }
CK_RV C_Login(CK_SESSION_HANDLE session, CK_USER_TYPE user, CK_BYTE *pin, CK_ULONG length)
{
    (void)session, (void)user, (void)pin, (void)length;
    return CKR_FUNCTION_REJECTED;
}
#endif

int main(int argc, char **argv)
{
    CK_FUNCTION_LIST *list = load(argv[argc - 1]);
    say("C_GetInfo 0x%lx", list->C_GetInfo(NULL));
    say("C_Login 0x%lx", list->C_Login(0, 0, NULL, 0));
    say("C_Initialize 0x%lx", list->C_Initialize(NULL));
    return 0;
}
