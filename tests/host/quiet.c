/* quiet MODULE [nofile N|memory KIB|root DIRECTORY]: a daemon whose descriptors 0, 1 and 2 are the socket of a peer. It logs in, looks
 * for keys, signs and ends, whatever that answers, and tells the answers and what the peer has received. Before C_Initialize
 * nofile: no descriptor from N on can be opened; memory: so much can be had; root: the root directory is changed. */
#include "host.h"
#include <sys/socket.h>

static struct {
    const char *name;
    CK_RV rv;
} answers[16];
static int count;

static CK_RV note(const char *name, CK_RV rv)
{
    answers[count].name = name;
    answers[count++].rv = rv;
    return rv;
}

static void restrict_to(const char *what, const char *value)
{
    struct rlimit files;
    if (!strcmp(what, "nofile")) {
        getrlimit(RLIMIT_NOFILE, &files);
        files.rlim_cur = (rlim_t)atol(value);
        setrlimit(RLIMIT_NOFILE, &files);
    } else if (!strcmp(what, "memory")) {
        struct rlimit memory = { used() + (rlim_t)atol(value) * 1024, RLIM_INFINITY };
        setrlimit(RLIMIT_AS, &memory);
    } else if (chroot(value) || chdir("/")) {
        _exit(4);
    }
}

static void use(CK_FUNCTION_LIST *list)
{
    CK_BYTE signature[512], digest[32] = { 0 };
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_ATTRIBUTE wanted = { CKA_CLASS, &class, sizeof class };
    CK_MECHANISM mechanism = { CKM_ECDSA, NULL, 0 };
    CK_SESSION_HANDLE session = 0;
    CK_OBJECT_HANDLE key = 0;
    CK_SLOT_ID slot = 0;
    CK_ULONG slots = 1, keys = 0, length = sizeof signature;
    note("C_Initialize", list->C_Initialize(NULL));
    note("C_GetSlotList", list->C_GetSlotList(CK_TRUE, &slot, &slots));
    note("C_OpenSession", list->C_OpenSession(slot, CKF_SERIAL_SESSION, NULL, NULL, &session));
    note("C_Login", list->C_Login(session, CKU_USER, (CK_BYTE *)PIN, strlen(PIN)));
    note("C_FindObjectsInit", list->C_FindObjectsInit(session, &wanted, 1));
    note("C_FindObjects", list->C_FindObjects(session, &key, 1, &keys));
    note("C_FindObjectsFinal", list->C_FindObjectsFinal(session));
    if (note("C_SignInit", list->C_SignInit(session, &mechanism, key)) == CKR_OK)
        note("C_Sign", list->C_Sign(session, digest, sizeof digest, signature, &length));
    note("C_GenerateRandom", list->C_GenerateRandom(session, signature, 16));
    note("C_Finalize", list->C_Finalize(NULL));
}

int main(int argc, char **argv)
{
    CK_FUNCTION_LIST *list = load(argv[1]);
    struct rlimit files;
    char text[4096] = "";
    int peer[2], told = dup(STDERR_FILENO);
    if (told < 0 || socketpair(AF_UNIX, SOCK_STREAM, 0, peer))
        return 3;
    for (int i = 0; i < 3; i++)
        dup2(peer[1], i);
    close(peer[1]);
    getrlimit(RLIMIT_NOFILE, &files);
    if (argc > 3)
        restrict_to(argv[2], argv[3]);
    use(list);
    ssize_t received = recv(peer[0], text, sizeof text - 1, MSG_DONTWAIT);
    setrlimit(RLIMIT_NOFILE, &files);
    dup2(told, STDERR_FILENO);
    for (int i = 0; i < count; i++)
        say("%s 0x%lx", answers[i].name, answers[i].rv);
    if (received >= 0)
        say("the peer has received %.*s", (int)strcspn(text, "\n"), text);
    return 0;
}
