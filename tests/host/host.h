/* What the host programs of the tests share. They speak on stderr, in lines that begin with "> ": a word that the module
 * writes to stdout shows at once. The PIN is that of tests/conftest.py. */
#define _GNU_SOURCE
#define CRYPTOKI_COMPAT
#include <p11-kit/pkcs11.h>

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#define PIN "123456"

static void __attribute__((format(printf, 1, 2))) say(const char *format, ...)
{
    char text[1024] = "> ";
    va_list arguments;
    va_start(arguments, format);
    int length = 2 + vsnprintf(text + 2, sizeof text - 3, format, arguments);
    va_end(arguments);
    text[length++] = '\n';
    if (write(STDERR_FILENO, text, (size_t)length) != length)
        _exit(3);
}

#define must(call)                                                 \
    do {                                                           \
        CK_RV must_rv = (call);                                    \
        if (must_rv) {                                             \
            say("%s: 0x%lx", #call, must_rv);                      \
            _exit(2);                                              \
        }                                                          \
    } while (0)

/* The address space that is in use, in bytes. */
static rlim_t used(void)
{
    long pages = 0;
    FILE *file = fopen("/proc/self/statm", "r");
    if (!file || fscanf(file, "%ld", &pages) != 1)
        _exit(2);
    fclose(file);
    return (rlim_t)pages * (rlim_t)sysconf(_SC_PAGESIZE);
}

static void *open_module(const char *path, int mode)
{
    void *library = dlopen(path, mode);
    if (!library) {
        say("%s", dlerror());
        _exit(2);
    }
    return library;
}

static CK_FUNCTION_LIST *functions_of(void *library)
{
    CK_C_GetFunctionList get = (CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList");
    CK_FUNCTION_LIST *list = NULL;
    must(get(&list));
    return list;
}

static CK_FUNCTION_LIST *load(const char *path)
{
    return functions_of(open_module(path, RTLD_NOW | RTLD_LOCAL));
}

typedef struct {
    CK_FUNCTION_LIST *list;
    CK_SESSION_HANDLE session;
    CK_OBJECT_HANDLE key;
} signer;

/* The slot of the token "test": p11-kit shows others too. */
static CK_SLOT_ID slot_of_test(CK_FUNCTION_LIST *list)
{
    CK_SLOT_ID slots[32];
    CK_ULONG count = 32;
    CK_TOKEN_INFO info;
    must(list->C_GetSlotList(CK_TRUE, slots, &count));
    for (CK_ULONG i = 0; i < count; i++) {
        must(list->C_GetTokenInfo(slots[i], &info));
        if (!memcmp(info.label, "test  ", 6))
            return slots[i];
    }
    say("no token");
    _exit(2);
}

/* A session with the token's first EC key; the user is logged in. */
static signer log_in(CK_FUNCTION_LIST *list)
{
    signer who = { .list = list };
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_KEY_TYPE type = CKK_EC;
    CK_ATTRIBUTE wanted[] = { { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &type, sizeof type } };
    CK_ULONG count = 0;
    must(list->C_OpenSession(slot_of_test(list), CKF_SERIAL_SESSION, NULL, NULL, &who.session));
    CK_RV rv = list->C_Login(who.session, CKU_USER, (CK_BYTE *)PIN, strlen(PIN));
    if (rv != CKR_USER_ALREADY_LOGGED_IN)
        must(rv);
    must(list->C_FindObjectsInit(who.session, wanted, 2));
    must(list->C_FindObjects(who.session, &who.key, 1, &count));
    must(list->C_FindObjectsFinal(who.session));
    if (count != 1) {
        say("no key");
        _exit(2);
    }
    return who;
}

/* Signs a digest of 32 bytes 0x11 and gives the return value. */
static CK_RV sign(signer who, CK_BYTE signature[64])
{
    CK_MECHANISM mechanism = { CKM_ECDSA, NULL, 0 };
    CK_BYTE digest[32];
    CK_ULONG length = 64;
    memset(digest, 0x11, sizeof digest);
    CK_RV rv = who.list->C_SignInit(who.session, &mechanism, who.key);
    if (rv == CKR_OK)
        rv = who.list->C_Sign(who.session, digest, sizeof digest, signature, &length);
    return rv == CKR_OK && length != 64 ? CKR_GENERAL_ERROR : rv;
}

static void say_signature(const CK_BYTE signature[64])
{
    char text[129];
    for (int i = 0; i < 64; i++)
        sprintf(text + 2 * i, "%02x", signature[i]);
    say("signature %s", text);
}
