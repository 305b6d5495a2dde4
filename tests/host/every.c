/* every MODULE start|bare NAME...: calls functions with arguments that are all 0 and tells what they return.
 * start: C_Initialize comes first. */
#include "host.h"

typedef CK_RV (*any)(long, long, long, long, long, long, long, long, long);

int main(int argc, char **argv)
{
    void *library = open_module(argv[1], RTLD_NOW | RTLD_LOCAL);
    CK_FUNCTION_LIST *list = functions_of(library);
    if (!strcmp(argv[2], "start"))
        say("C_Initialize 0x%lx", list->C_Initialize(NULL));
    for (int i = 3; i < argc; i++) {
        any function = (any)dlsym(library, argv[i]);
        if (!function)
            say("%s is not there", argv[i]);
        else
            say("%s 0x%lx", argv[i], function(0, 0, 0, 0, 0, 0, 0, 0, 0));
    }
    return 0;
}
