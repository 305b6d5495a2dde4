/* version MODULE: one thread asks Python for its version all the time, which the module does at each C_Initialize, too. */
#include "host.h"

static const char *(*python_version)(void);
static atomic_bool asking, end;

static void *ask(void *nothing)
{
    while (!end)
        asking = *python_version() != 0;
    return nothing;
}

int main(int argc, char **argv)
{
    pthread_t thread;
    int told = 0;
    void *library = open_module(argv[argc - 1], RTLD_NOW | RTLD_LOCAL);
    CK_FUNCTION_LIST *list = functions_of(library);
    python_version = (const char *(*)(void))dlsym(library, "Py_GetVersion");
    must(list->C_Initialize(NULL));
    pthread_create(&thread, NULL, ask, NULL);
    while (!asking)
        usleep(1000);
    for (int i = 0; i < 100000; i++)
        told += list->C_Initialize(NULL) == CKR_CRYPTOKI_ALREADY_INITIALIZED;
    end = true;
    pthread_join(thread, NULL);
    say("told %d", told);
    return 0;
}
