/* closes MODULE DIRECTORY DEVICE POINT: at one point of its life, or at "every" one, it closes all descriptors from 3 on, as
 * daemons do, and then opens what is its own: files, sockets, pipes, epoll(7)'s and DEVICE, which may be the TPM's. They get the
 * same numbers. It goes on with the module, looks whether all that is its own is as it was, and last gives a signature. */
#include "host.h"
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

enum { FIRST = 3, SOME = 16, END = FIRST + 2 * SOME, CHILD_SECONDS = 60 };
static const char content[] = "what the host has written into its own file";
static const char *directory, *device, *point;
static CK_FUNCTION_LIST *list;
static int rounds;
static struct stat own[END + 1]; /* st_ino 0: not its own */

static void path_of(int number, char path[512])
{
    snprintf(path, 512, "%s/%d", directory, number);
}

static void open_file(int number)
{
    char path[512];
    path_of(number, path);
    if (open(path, O_RDWR | O_CREAT | O_TRUNC, 0600) != number || write(number, content, sizeof content) != sizeof content)
        _exit(4);
}

/* They are the same socket, whose other end is the checker's. */
static void open_socket(int number)
{
    if (dup(STDIN_FILENO) != number)
        _exit(5);
}

static void open_pipe(int number)
{
    int ends[2];
    if (pipe(ends) || ends[0] != number)
        _exit(6);
}

static void open_epoll(int number)
{
    if (epoll_create1(0) != number)
        _exit(7);
}

static void open_device(int number)
{
    if (open(device, O_RDWR | O_NOCTTY | O_NONBLOCK) != number)
        _exit(10);
}

/* Has the first numbers and those behind them by turns, so that the module has the others, which come next. Something of
 * another kind has a number each time. */
static void open_own(void)
{
    static void (*const opens[])(int) = { open_file, open_socket, open_pipe, open_epoll, open_device };
    int first = FIRST + rounds % 2 * SOME, end = first + SOME;
    for (int number = FIRST; number < first; number++)
        open_socket(number);
    for (int number = first, next = rounds++; number < end; number++, next++) {
        opens[next % 5](number);
        number += next % 5 == 2; /* a pipe has two */
    }
    memset(own, 0, sizeof own);
    for (int number = first; number < end; number++)
        fstat(number, &own[number]);
    for (int number = FIRST; number < first; number++)
        close(number);
}

static bool is_as_it_was(int number)
{
    struct stat now;
    char read_back[sizeof content + 1];
    int waiting = 0;
    if (fstat(number, &now) || now.st_ino != own[number].st_ino || now.st_dev != own[number].st_dev)
        return false;
    if (S_ISREG(now.st_mode))
        return now.st_size == sizeof content && lseek(number, 0, SEEK_CUR) == sizeof content
            && pread(number, read_back, sizeof read_back, 0) == sizeof content && !memcmp(read_back, content, sizeof content);
    return !S_ISFIFO(now.st_mode) || (ioctl(number, FIONREAD, &waiting) == 0 && waiting == 0);
}

static void check_own(const char *when)
{
    for (int number = FIRST; number <= END; number++)
        if (own[number].st_ino && !is_as_it_was(number)) {
            say("%s: descriptor %d is not as it was", when, number);
            _exit(8);
        }
}

static void at(const char *name)
{
    check_own(name);
    if (strcmp(point, name) && strcmp(point, "every"))
        return;
    if (close_range(FIRST, ~0U, 0))
        _exit(9);
    open_own();
}

static void sign_in_parts(signer who)
{
    CK_MECHANISM mechanism = { CKM_ECDSA_SHA256, NULL, 0 };
    CK_BYTE signature[64];
    CK_ULONG length = sizeof signature;
    must(list->C_SignInit(who.session, &mechanism, who.key));
    must(list->C_SignUpdate(who.session, (CK_BYTE *)"one", 3));
    at("updating");
    must(list->C_SignUpdate(who.session, (CK_BYTE *)"two", 3));
    must(list->C_SignFinal(who.session, signature, &length));
}

static void search(signer who)
{
    CK_OBJECT_HANDLE found[8];
    CK_ULONG count = 0;
    must(list->C_FindObjectsInit(who.session, NULL, 0));
    at("finding");
    must(list->C_FindObjects(who.session, found, 8, &count));
    must(list->C_FindObjectsFinal(who.session));
    if (count < 2) {
        say("found %lu", count);
        _exit(2);
    }
}

static void write_to_store(void)
{
    CK_BBOOL yes = CK_TRUE;
    CK_OBJECT_CLASS class = CKO_DATA;
    CK_ATTRIBUTE data[] = { { CKA_CLASS, &class, sizeof class }, { CKA_TOKEN, &yes, 1 }, { CKA_VALUE, "v", 1 } };
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE made;
    must(list->C_OpenSession(slot_of_test(list), CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));
    must(list->C_CreateObject(session, data, 3, &made));
    at("created");
    must(list->C_DestroyObject(session, made));
    must(list->C_CloseSession(session));
}

static void be_forked(void)
{
    CK_BYTE signature[64];
    int status = -1;
    at("forking");
    pid_t pid = fork();
    if (pid == 0) {
        alarm(CHILD_SECONDS);
        check_own("forked");
        must(list->C_Initialize(NULL));
        must(sign(log_in(list), signature));
        must(list->C_Finalize(NULL));
        check_own("in the child");
        _exit(0);
    }
    if (waitpid(pid, &status, 0) != pid || status) {
        say("child: 0x%x", status);
        _exit(2);
    }
}

static void live(void)
{
    CK_BYTE signature[64];
    must(list->C_Initialize(NULL));
    at("initialized");
    signer who = log_in(list);
    at("logged in");
    must(sign(who, signature));
    at("signed");
    must(list->C_SignInit(who.session, &(CK_MECHANISM){ CKM_ECDSA, NULL, 0 }, who.key));
    at("signing");
    must(list->C_Sign(who.session, signature, 32, signature, &(CK_ULONG){ 64 }));
    search(who);
    sign_in_parts(who);
    write_to_store();
    be_forked();
    must(sign(who, signature));
    at("logging out");
    must(list->C_Logout(who.session));
    at("logged out");
    must(sign(log_in(list), signature));
    at("finalizing");
    must(list->C_Finalize(NULL));
    at("finalized");
    must(list->C_Initialize(NULL));
    must(sign(log_in(list), signature));
    say_signature(signature);
    at("exiting");
}

int main(int, char **argv)
{
    int pair[2], status = -1;
    char byte;
    directory = argv[2];
    device = argv[3];
    point = argv[4];
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        return 3;
    pid_t pid = fork();
    if (pid == 0) {
        dup2(pair[0], STDIN_FILENO);
        list = load(argv[1]);
        live();
        exit(0);
    }
    if (waitpid(pid, &status, 0) != pid || status)
        return 2;
    if (recv(pair[1], &byte, 1, MSG_DONTWAIT) >= 0 || errno != EAGAIN)
        say("the socket was used");
    for (int number = FIRST; number <= END; number++) {
        char path[512], read_back[sizeof content + 1];
        path_of(number, path);
        int file = open(path, O_RDONLY);
        if (file >= 0 && (read(file, read_back, sizeof read_back) != sizeof content || memcmp(read_back, content, sizeof content)))
            say("file %d was changed", number);
        if (file >= 0)
            close(file);
    }
    return 0;
}
