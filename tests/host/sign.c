/* sign MODULE [global] [mdwe] [closed]: a whole login and signature.
 * global: the module is loaded RTLD_GLOBAL; mdwe: memory may not be made executable; closed: descriptors 0 and 1 are not open. */
#include "host.h"
#include <sys/prctl.h>

#ifndef PR_SET_MDWE
#define PR_SET_MDWE 65
#define PR_MDWE_REFUSE_EXEC_GAIN 1
#endif

int main(int argc, char **argv)
{
    int mode = RTLD_NOW | RTLD_LOCAL;
    for (int i = 2; i < argc; i++)
        if (!strcmp(argv[i], "global")) {
            mode = RTLD_NOW | RTLD_GLOBAL;
        } else if (!strcmp(argv[i], "closed")) {
            close(0);
            close(1);
        } else if (prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN, 0, 0, 0)) {
            say("no mdwe: %s", strerror(errno));
            return 77;
        }
    CK_FUNCTION_LIST *list = functions_of(open_module(argv[1], mode));
    CK_BYTE signature[64];
    must(list->C_Initialize(NULL));
    must(sign(log_in(list), signature));
    must(list->C_Finalize(NULL));
    say_signature(signature);
    return 0;
}
