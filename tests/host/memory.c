/* memory MODULE KIB: C_Initialize with so much memory to have, then again with enough. */
#include "host.h"

int main(int argc, char **argv)
{
    CK_FUNCTION_LIST *list = load(argv[1]);
    struct rlimit limit = { used() + (rlim_t)atol(argv[argc - 1]) * 1024, RLIM_INFINITY };
    setrlimit(RLIMIT_AS, &limit);
    CK_RV rv = list->C_Initialize(NULL);
    CK_RV login = list->C_Login(0, CKU_USER, NULL, 0);
    say("C_Initialize 0x%lx", rv);
    say("C_Login 0x%lx", login);
    limit.rlim_cur = RLIM_INFINITY;
    setrlimit(RLIMIT_AS, &limit);
    say("again 0x%lx", list->C_Initialize(NULL));
    return 0;
}
