/* tokens MODULE: the labels of all tokens, and whether the program has other rights than its caller's. */
#include "host.h"
#include <sys/auxv.h>

int main(int argc, char **argv)
{
    CK_SLOT_ID slots[64];
    CK_ULONG count = 64;
    CK_TOKEN_INFO info;
    CK_FUNCTION_LIST *list = load(argv[argc - 1]);
    say("C_Initialize 0x%lx", list->C_Initialize(NULL));
    if (getauxval(AT_SECURE))
        say("secure");
    must(list->C_GetSlotList(CK_TRUE, slots, &count));
    for (CK_ULONG i = 0; i < count; i++) {
        must(list->C_GetTokenInfo(slots[i], &info));
        int length = 32;
        while (length && info.label[length - 1] == ' ')
            length--;
        say("token %.*s", length, info.label);
    }
    return 0;
}
