/* reload MODULE used|unused N: loads and unloads the module N times; used: with a run of the library each time. */
#include "host.h"

int main(int argc, char **argv)
{
    CK_FUNCTION_LIST *list = NULL;
    CK_INFO info;
    for (int i = 0; i < atoi(argv[3]); i++) {
        void *library = open_module(argv[1], RTLD_NOW | RTLD_LOCAL);
        list = functions_of(library);
        if (!strcmp(argv[2], "used")) {
            must(list->C_Initialize(NULL));
            must(list->C_GetInfo(&info));
            must(list->C_Finalize(NULL));
        }
        if (dlclose(library))
            say("dlclose: %s", dlerror());
    }
    say("after 0x%lx", list->C_GetInfo(&info)); /* a host that does not know that it has unloaded us */
    return argc != 4;
}
