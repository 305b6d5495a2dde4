/* signer MODULE COUNT [KEYS [SECONDS]]: logs in and signs with the first of KEYS keys; then COUNT times with all of them in turn;
 * signs once more after SECONDS without a call. Says the median of the times, in milliseconds. As root it marks in the kernel's
 * trace when it begins each of these.
 * signer MODULE make KEYS: makes keys. */
#include "host.h"
#include <time.h>

enum { KEYS = 64 };

static void mark(const char *what)
{
    int fd = open("/sys/kernel/tracing/trace_marker", O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (write(fd, what, strlen(what)) < 0)
        _exit(3);
    close(fd);
}

static double now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (double)time.tv_sec * 1000 + (double)time.tv_nsec / 1000000;
}

static int compare(const void *one, const void *other)
{
    double difference = *(const double *)one - *(const double *)other;
    return (difference > 0) - (difference < 0);
}

static void make(CK_FUNCTION_LIST *list, CK_SESSION_HANDLE session)
{
    CK_BBOOL yes = CK_TRUE;
    CK_BYTE p256[] = { 0x06, 0x08, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07 };
    CK_MECHANISM mechanism = { CKM_EC_KEY_PAIR_GEN, NULL, 0 };
    CK_ATTRIBUTE public[] = { { CKA_TOKEN, &yes, 1 }, { CKA_EC_PARAMS, p256, sizeof p256 } };
    CK_ATTRIBUTE private[] = { { CKA_TOKEN, &yes, 1 }, { CKA_LABEL, "key", 3 } };
    CK_OBJECT_HANDLE verifier, key;
    must(list->C_GenerateKeyPair(session, &mechanism, public, 2, private, 2, &verifier, &key));
}

int main(int argc, char **argv)
{
    int count = atoi(argv[2]), keys = argc > 3 ? atoi(argv[3]) : 1, seconds = argc > 4 ? atoi(argv[4]) : 0;
    double *times = calloc((size_t)count + 1, sizeof *times);
    CK_OBJECT_HANDLE handles[KEYS];
    CK_ULONG found = 0;
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_KEY_TYPE type = CKK_EC;
    CK_ATTRIBUTE wanted[] = { { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &type, sizeof type } };
    CK_BYTE signature[64];
    CK_FUNCTION_LIST *list = load(argv[1]);
    signer who = { .list = list };
    mark("login");
    must(list->C_Initialize(NULL));
    must(list->C_OpenSession(slot_of_test(list), CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &who.session));
    must(list->C_Login(who.session, CKU_USER, (CK_BYTE *)PIN, strlen(PIN)));
    if (!strcmp(argv[2], "make")) {
        while (keys-- > 0)
            make(list, who.session);
        return list->C_Finalize(NULL) != CKR_OK;
    }
    must(list->C_FindObjectsInit(who.session, wanted, 2));
    must(list->C_FindObjects(who.session, handles, KEYS, &found));
    must(list->C_FindObjectsFinal(who.session));
    if (found < (CK_ULONG)keys) {
        say("%lu keys", found);
        return 2;
    }
    who.key = handles[0];
    must(sign(who, signature));
    mark("further");
    for (int i = 0; i < count; i++) {
        double began = now();
        who.key = handles[(i + 1) % keys];
        must(sign(who, signature));
        times[i] = now() - began;
    }
    mark("idle");
    if (seconds) {
        sleep((unsigned)seconds);
        must(sign(who, signature));
    }
    mark("closing");
    must(list->C_Finalize(NULL));
    mark("ended");
    qsort(times, (size_t)count, sizeof *times, compare);
    say("%.1f", times[count / 2]);
    return 0;
}
