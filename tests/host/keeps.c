/* keeps MODULE: says after each step of its life what descriptors from 3 on there are, beside what it had at first. swtpm's
 * socket is kept for some milliseconds after a command, which it waits for. */
#include "host.h"

enum { MOST = 64, PATIENCE_MS = 20000 };
static bool had[MOST];

static bool is_open(int number) { return fcntl(number, F_GETFD) >= 0; }

/* Gives one that is the module's: a socket first. -1: there is none. */
static int next_kept(int after, bool socket, char place[256])
{
    char link[64];
    for (int number = after + 1; number < MOST; number++) {
        snprintf(link, sizeof link, "/proc/self/fd/%d", number);
        ssize_t size = had[number] ? -1 : readlink(link, place, 255);
        if (size < 0)
            continue;
        place[size] = 0;
        if (!socket || !strncmp(place, "socket:", 7))
            return number;
    }
    return -1;
}

static void say_what_is_kept(const char *when, bool without_socket)
{
    char place[256], text[900] = "";
    for (int waited = 0; without_socket && next_kept(2, true, place) >= 0 && waited < PATIENCE_MS; waited++)
        usleep(1000);
    for (int number = 2; (number = next_kept(number, false, place)) >= 0;) {
        char *name = strrchr(place, '/');
        if (!strncmp(place, "socket:", 7))
            place[6] = 0; /* without the inode */
        strcat(strcat(text, " "), name ? name + 1 : place);
        if (!(fcntl(number, F_GETFD) & FD_CLOEXEC))
            strcat(text, " (inherited)");
    }
    say("%s:%s", when, text);
}

int main(int argc, char **argv)
{
    CK_BYTE signature[64];
    bool without_socket = argc == 3;
    CK_FUNCTION_LIST *list = load(argv[1]);
    for (int number = 0; number < MOST; number++)
        had[number] = is_open(number);
    must(list->C_Initialize(NULL));
    say_what_is_kept("initialized", without_socket);
    signer who = log_in(list);
    say_what_is_kept("logged in", without_socket);
    must(sign(who, signature));
    say_what_is_kept("signed", without_socket);
    must(list->C_Finalize(NULL));
    say_what_is_kept("finalized", without_socket);
    return 0;
}
