/* broker MODULE: what a TPM behind a resource manager leaves in the process, before and after forks. Each child finds nothing
 * of its parent's, and signs by itself. */
#include "host.h"
#include <dirent.h>

static int count(const char *directory, const char *kind)
{
    int number = 0;
    char path[512], place[256];
    DIR *all = opendir(directory);
    for (struct dirent *one; (one = readdir(all));) {
        if (one->d_name[0] == '.')
            continue;
        snprintf(path, sizeof path, "%s/%s", directory, one->d_name);
        ssize_t size = *kind ? readlink(path, place, sizeof place) : 0;
        number += size >= (ssize_t)strlen(kind) && !memcmp(place, kind, strlen(kind));
    }
    closedir(all);
    return number;
}

static int sockets(void) { return count("/proc/self/fd", "socket:"); }

static void say_what_there_is(const char *when)
{
    say("%s: sockets %d threads %d", when, sockets(), count("/proc/self/task", ""));
}

static void try_a_child(CK_FUNCTION_LIST *list, const char *when)
{
    int status;
    CK_BYTE signature[64];
    pid_t pid = fork();
    if (pid == 0) {
        alarm(60);
        if (sockets())
            _exit(4);
        must(list->C_Initialize(NULL));
        must(sign(log_in(list), signature));
        if (sockets() != 1)
            _exit(5);
        must(list->C_Finalize(NULL));
        _exit(sockets());
    }
    waitpid(pid, &status, 0);
    if (status)
        say("%s child: status 0x%x", when, status);
    else
        say("%s child: good", when);
}

int main(int argc, char **argv)
{
    CK_BYTE signature[64];
    CK_FUNCTION_LIST *list = load(argv[argc - 1]);
    must(list->C_Initialize(NULL));
    say_what_there_is("at first");
    try_a_child(list, "cold");
    signer who = log_in(list);
    must(sign(who, signature));
    say_what_there_is("signed");
    try_a_child(list, "warm");
    must(sign(who, signature));
    say_what_there_is("its parent");
    must(list->C_Finalize(NULL));
    say_what_there_is("at last");
    return 0;
}
