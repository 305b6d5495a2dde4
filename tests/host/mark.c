/* A shared object that leaves a mark when it is loaded: what a jail's owner puts where the module may look for one. */
#include <fcntl.h>
#include <unistd.h>

__attribute__((constructor)) static void mark(void)
{
    close(open("/marks/shared object", O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
}
