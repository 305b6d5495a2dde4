/* secrets MODULE SCENARIO [POINT]: handles secrets, and waits for a line on stdin at each moment at which its memory is searched.
 *
 * What it knows of them it makes from numbers when it is needed, and wipes: PINs by word(), values by value(), as
 * tests/host/secrecy.py does. What only the module can make is told in disguise. POINT is the public key of a peer, in hex. */
#include "host.h"

enum { PIN_NUMBER = 1, SO_PIN, NEW_PIN, NEW_SO_PIN, WRONG_PIN, DATA, AES, GENERIC, WRAPPED, EC, KEPT, PLAIN };

static CK_FUNCTION_LIST *list;
static CK_SESSION_HANDLE session;
static CK_BYTE p256[] = { 6, 8, 0x2a, 0x86, 0x48, 0xce, 0x3d, 3, 1, 7 };
static CK_BYTE yes = CK_TRUE, no = CK_FALSE;
static const char *point;
static bool logged_in = true; /* and to be logged out */

#define TEXT 24 /* bytes of a PIN */

static CK_BYTE made[512]; /* the host's own copy */
static CK_BYTE other[TEXT];

static void make(CK_BYTE *out, int number, size_t size, bool letters)
{
    uint32_t state = (uint32_t)number * 2654435761u;
    for (size_t i = 0; i < size; i++) {
        state = state * 1103515245u + 12345u;
        out[i] = (CK_BYTE)(letters ? 'a' + (state >> 16) % 26 : (state >> 16) & 0xff);
    }
}

static CK_BYTE *word(int number)
{
    make(made, number, TEXT, true);
    return made;
}

static CK_BYTE *value(int number, size_t size)
{
    make(made, number, size, false);
    return made;
}

static void wipe(void)
{
    explicit_bzero(made, sizeof made);
    explicit_bzero(other, sizeof other);
}

/* Makes a call, wipes what the host had for it, and looks at its answer then. */
#define wiping(call)          \
    do {                      \
        CK_RV called = (call); \
        wipe();               \
        must(called);         \
    } while (0)

static void wait_for_search(const char *moment)
{
    char line[2];
    say("searched %s %d", moment, (int)getpid());
    if (read(STDIN_FILENO, line, 1) != 1)
        _exit(4);
}

/* Says a value that the test cannot know, so that no form of it is left here that the test looks for. */
static void disclose(const char *name, const CK_BYTE *bytes, size_t size)
{
    char text[513];
    for (size_t i = 0; i < size; i++)
        sprintf(text + 2 * i, "%02x", bytes[i] ^ 0xa5);
    say("made %s %s", name, text);
}

static void login(CK_USER_TYPE user, int number)
{
    wiping(list->C_Login(session, user, word(number), TEXT));
}

/* What the module gives for an attribute; in `made`. */
static CK_ULONG get(CK_OBJECT_HANDLE object, CK_ATTRIBUTE_TYPE type)
{
    CK_ATTRIBUTE wanted = { type, made, sizeof made };
    must(list->C_GetAttributeValue(session, object, &wanted, 1));
    return wanted.ulValueLen;
}

static CK_OBJECT_HANDLE create(CK_ATTRIBUTE *template, size_t size)
{
    CK_OBJECT_HANDLE object = 0;
    wiping(list->C_CreateObject(session, template, size, &object));
    return object;
}

#define create_from(template) create(template, sizeof(template) / sizeof *(template))

static CK_OBJECT_HANDLE key_of_token(CK_KEY_TYPE type)
{
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_ATTRIBUTE wanted[] = { { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &type, sizeof type }, { CKA_TOKEN, &yes, 1 } };
    CK_OBJECT_HANDLE key = 0;
    CK_ULONG count = 0;
    must(list->C_FindObjectsInit(session, wanted, 3));
    must(list->C_FindObjects(session, &key, 1, &count));
    must(list->C_FindObjectsFinal(session));
    return key;
}

static void sign_with(CK_OBJECT_HANDLE key, CK_MECHANISM_TYPE type)
{
    CK_MECHANISM mechanism = { type, NULL, 0 };
    CK_BYTE data[32] = "what is signed", signature[512];
    CK_ULONG length = sizeof signature;
    must(list->C_SignInit(session, &mechanism, key));
    must(list->C_Sign(session, data, sizeof data, signature, &length));
}

/* A secret key of this value. `kept`: in the token, where the TPM has it unless it is extractable. */
static CK_OBJECT_HANDLE secret_key(CK_KEY_TYPE type, int number, CK_ULONG size, bool kept, bool extractable)
{
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_BYTE *may = extractable ? &yes : &no, *stays = kept ? &yes : &no, *crypts = type == CKK_AES ? &yes : &no,
            *signs = type == CKK_AES ? &no : &yes;
    CK_ATTRIBUTE template[] = {
        { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &type, sizeof type }, { CKA_TOKEN, stays, 1 },
        { CKA_VALUE, value(number, size), size }, { CKA_EXTRACTABLE, may, 1 }, { CKA_SENSITIVE, &no, 1 },
        { CKA_ENCRYPT, crypts, 1 }, { CKA_DECRYPT, crypts, 1 }, { CKA_WRAP, extractable ? crypts : &no, 1 },
        { CKA_UNWRAP, extractable ? crypts : &no, 1 }, { CKA_SIGN, signs, 1 }, { CKA_VERIFY, signs, 1 },
        { CKA_PRIVATE, &yes, 1 }, { CKA_DERIVE, extractable ? &yes : &no, 1 },
    };
    return create_from(template);
}

static void encrypt_and_decrypt(CK_OBJECT_HANDLE key)
{
    CK_BYTE iv[16] = { 0 }, encrypted[128];
    CK_MECHANISM mechanism = { CKM_AES_CBC_PAD, iv, sizeof iv };
    CK_ULONG length = sizeof encrypted, plain = sizeof made;
    must(list->C_EncryptInit(session, &mechanism, key));
    wiping(list->C_Encrypt(session, value(PLAIN, 64), 64, encrypted, &length));
    must(list->C_DecryptInit(session, &mechanism, key));
    wiping(list->C_Decrypt(session, encrypted, length, made, &plain));
}

/* ---- scenarios */

static void log_in_only(void)
{
    login(CKU_USER, PIN_NUMBER);
}

static void log_in_wrong(void)
{
    CK_RV rv = list->C_Login(session, CKU_USER, word(WRONG_PIN), TEXT);
    wipe();
    if (rv != CKR_PIN_INCORRECT)
        must(rv ? rv : CKR_GENERAL_ERROR);
    login(CKU_USER, PIN_NUMBER);
}

static void log_in_from_file(void)
{
    must(list->C_Login(session, CKU_USER, NULL, 0));
}

static void do_sign(void)
{
    login(CKU_USER, PIN_NUMBER);
    for (int i = 0; i < 3; i++)
        sign_with(key_of_token(CKK_EC), CKM_ECDSA);
}

/* A new private key on P-256, in the TPM for as long as the session is, for what a boolean attribute says. */
static CK_OBJECT_HANDLE generate(CK_ATTRIBUTE_TYPE what)
{
    CK_MECHANISM mechanism = { CKM_EC_KEY_PAIR_GEN, NULL, 0 };
    CK_ATTRIBUTE public[] = { { CKA_EC_PARAMS, p256, sizeof p256 } };
    CK_ATTRIBUTE private[] = { { what, &yes, 1 }, { CKA_TOKEN, &no, 1 }, { CKA_SIGN, &yes, 1 }, { CKA_PRIVATE, &yes, 1 } };
    CK_OBJECT_HANDLE one, key;
    must(list->C_GenerateKeyPair(session, &mechanism, public, 1, private, 4, &one, &key));
    return key;
}

static void sign_with_pin_each_time(void)
{
    CK_MECHANISM ecdsa = { CKM_ECDSA, NULL, 0 };
    CK_BYTE data[32] = "signed", signature[64];
    CK_ULONG length = sizeof signature;
    login(CKU_USER, PIN_NUMBER);
    CK_OBJECT_HANDLE key = generate(CKA_ALWAYS_AUTHENTICATE);
    must(list->C_SignInit(session, &ecdsa, key));
    login(CKU_CONTEXT_SPECIFIC, PIN_NUMBER);
    must(list->C_Sign(session, data, sizeof data, signature, &length));
}

static void set_pin(int old, int new)
{
    make(other, new, TEXT, true);
    wiping(list->C_SetPIN(session, word(old), TEXT, other, TEXT));
}

static void change_pin(void)
{
    login(CKU_USER, PIN_NUMBER);
    set_pin(PIN_NUMBER, NEW_PIN);
    sign_with(key_of_token(CKK_EC), CKM_ECDSA);
    set_pin(NEW_PIN, PIN_NUMBER);
}

static void change_so_pin(void)
{
    login(CKU_SO, SO_PIN);
    set_pin(SO_PIN, NEW_SO_PIN);
    set_pin(NEW_SO_PIN, SO_PIN);
}

static void reset_pin(void)
{
    login(CKU_SO, SO_PIN);
    wiping(list->C_InitPIN(session, word(NEW_PIN), TEXT));
    wiping(list->C_InitPIN(session, word(PIN_NUMBER), TEXT));
}

static void data_object(void)
{
    CK_OBJECT_CLASS class = CKO_DATA;
    CK_ATTRIBUTE template[] = { { CKA_CLASS, &class, sizeof class }, { CKA_TOKEN, &yes, 1 }, { CKA_PRIVATE, &yes, 1 },
                                { CKA_LABEL, "secret", 6 }, { CKA_VALUE, value(DATA, 64), 64 } };
    login(CKU_USER, PIN_NUMBER);
    value(DATA, 64);
    CK_OBJECT_HANDLE object = create_from(template);
    for (int i = 0; i < 2; i++) {
        get(object, CKA_VALUE);
        wipe();
    }
    template[1].pValue = &no;
    value(DATA, 64);
    object = create_from(template);
    get(object, CKA_VALUE);
    wipe();
}

static void derive(void)
{
    CK_BYTE peer[65];
    for (size_t i = 0; i < sizeof peer; i++)
        sscanf(point + 2 * i, "%2hhx", &peer[i]);
    CK_ECDH1_DERIVE_PARAMS parameters = { CKD_NULL, 0, NULL, sizeof peer, peer };
    CK_MECHANISM ecdh = { CKM_ECDH1_DERIVE, &parameters, sizeof parameters }, hash = { CKM_SHA256_KEY_DERIVATION, NULL, 0 };
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_GENERIC_SECRET;
    CK_ULONG size = 32;
    CK_ATTRIBUTE template[] = { { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &type, sizeof type },
                                { CKA_VALUE_LEN, &size, sizeof size }, { CKA_TOKEN, &no, 1 }, { CKA_SENSITIVE, &no, 1 },
                                { CKA_EXTRACTABLE, &yes, 1 }, { CKA_DERIVE, &yes, 1 }, { CKA_SIGN, &yes, 1 },
                                { CKA_PRIVATE, &yes, 1 } };
    CK_OBJECT_HANDLE derived, hashed;
    login(CKU_USER, PIN_NUMBER);
    must(list->C_DeriveKey(session, &ecdh, generate(CKA_DERIVE), template, 9, &derived));
    must(list->C_DeriveKey(session, &hash, derived, template, 9, &hashed));
    sign_with(derived, CKM_SHA256_HMAC);
    disclose("derived", made, get(derived, CKA_VALUE));
    disclose("hashed", made, get(hashed, CKA_VALUE));
    wipe();
}

static void wrap_and_unwrap(void)
{
    CK_MECHANISM wrap = { CKM_AES_KEY_WRAP_PAD, NULL, 0 };
    CK_OBJECT_CLASS class = CKO_SECRET_KEY;
    CK_KEY_TYPE type = CKK_GENERIC_SECRET;
    CK_ATTRIBUTE template[] = { { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &type, sizeof type },
                                { CKA_TOKEN, &yes, 1 }, { CKA_SENSITIVE, &no, 1 }, { CKA_EXTRACTABLE, &yes, 1 },
                                { CKA_SIGN, &yes, 1 }, { CKA_PRIVATE, &yes, 1 } };
    CK_BYTE wrapped[128];
    CK_ULONG length = sizeof wrapped;
    CK_OBJECT_HANDLE unwrapped;
    login(CKU_USER, PIN_NUMBER);
    CK_OBJECT_HANDLE key = secret_key(CKK_AES, AES, 32, false, true);
    must(list->C_WrapKey(session, &wrap, key, secret_key(CKK_GENERIC_SECRET, WRAPPED, 32, false, true), wrapped, &length));
    must(list->C_UnwrapKey(session, &wrap, key, wrapped, length, template, 7, &unwrapped));
    sign_with(unwrapped, CKM_SHA256_HMAC);
    get(unwrapped, CKA_VALUE);
    wipe();
}

static void secret_keys_in_software(void)
{
    login(CKU_USER, PIN_NUMBER);
    for (int kept = 0; kept < 2; kept++) {
        encrypt_and_decrypt(secret_key(CKK_AES, AES, 32, kept, true));
        sign_with(secret_key(CKK_GENERIC_SECRET, GENERIC, 48, kept, true), CKM_SHA256_HMAC);
    }
}

static void secret_keys_in_tpm(void)
{
    login(CKU_USER, PIN_NUMBER);
    encrypt_and_decrypt(secret_key(CKK_AES, AES, 32, true, false));
    sign_with(secret_key(CKK_GENERIC_SECRET, GENERIC, 32, true, false), CKM_SHA256_HMAC);
}

static void private_key_from_outside(void)
{
    CK_OBJECT_CLASS class = CKO_PRIVATE_KEY;
    CK_KEY_TYPE type = CKK_EC;
    CK_ATTRIBUTE template[] = { { CKA_CLASS, &class, sizeof class }, { CKA_KEY_TYPE, &type, sizeof type },
                                { CKA_TOKEN, &yes, 1 }, { CKA_EC_PARAMS, p256, sizeof p256 }, { CKA_SIGN, &yes, 1 },
                                { CKA_PRIVATE, &yes, 1 }, { CKA_VALUE, made, 32 } };
    login(CKU_USER, PIN_NUMBER);
    value(EC, 32);
    made[0] &= 0x7f; /* less than the order */
    sign_with(create_from(template), CKM_ECDSA);
}

/* The child has nothing of its parent's login, which goes on. */
static void fork_logged_in(void)
{
    int status;
    data_object();
    sign_with(key_of_token(CKK_EC), CKM_ECDSA);
    pid_t pid = fork();
    if (pid == 0) {
        wait_for_search("child");
        _exit(0);
    }
    if (waitpid(pid, &status, 0) != pid || status)
        _exit(5);
    sign_with(key_of_token(CKK_EC), CKM_ECDSA);
}

/* The run ends in the middle of an operation. */
static void end_without_logout(void)
{
    CK_BYTE iv[16] = { 0 };
    CK_MECHANISM mechanism = { CKM_AES_CBC_PAD, iv, sizeof iv };
    data_object();
    must(list->C_EncryptInit(session, &mechanism, secret_key(CKK_AES, AES, 32, false, true)));
    logged_in = false;
}

/* Keeps what the search has to find. */
static void keep(void)
{
    login(CKU_USER, PIN_NUMBER);
    value(KEPT, 32);
}

static const struct {
    const char *name;
    void (*run)(void);
} scenarios[] = {
    { "login", log_in_only },
    { "wrong_login", log_in_wrong },
    { "pin_file", log_in_from_file },
    { "sign", do_sign },
    { "context_login", sign_with_pin_each_time },
    { "set_pin", change_pin },
    { "set_so_pin", change_so_pin },
    { "init_pin", reset_pin },
    { "data", data_object },
    { "derive", derive },
    { "unwrap", wrap_and_unwrap },
    { "software_keys", secret_keys_in_software },
    { "tpm_keys", secret_keys_in_tpm },
    { "import", private_key_from_outside },
    { "fork", fork_logged_in },
    { "no_logout", end_without_logout },
    { "keep", keep },
};

int main(int argc, char **argv)
{
    alarm(180); /* it hangs */
    void *library = open_module(argv[1], RTLD_NOW | RTLD_LOCAL);
    list = functions_of(library);
    point = argv[argc - 1];
    must(list->C_Initialize(NULL));
    must(list->C_OpenSession(slot_of_test(list), CKF_SERIAL_SESSION | CKF_RW_SESSION, NULL, NULL, &session));
    for (size_t i = 0; i < sizeof scenarios / sizeof *scenarios; i++)
        if (!strcmp(argv[2], scenarios[i].name))
            scenarios[i].run();
    if (logged_in) {
        must(list->C_Logout(session));
        wait_for_search("C_Logout");
    }
    must(list->C_Finalize(NULL));
    wait_for_search("C_Finalize");
    dlclose(library);
    wait_for_search("dlclose");
    return 0;
}
