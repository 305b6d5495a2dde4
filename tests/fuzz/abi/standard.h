/* What the standard says of each function: its arguments, and the codes that it may answer (Base Specification 3.0, clauses 5.1 and
 * 5.4 to 5.21). CKR_GENERAL_ERROR, CKR_FUNCTION_FAILED and CKR_HOST_MEMORY, which each function may answer, are in no list: nothing
 * that a host does is a reason for them. */

#ifndef CKR_ACTION_PROHIBITED
#define CKR_ACTION_PROHIBITED 0x1BUL
#endif
#ifndef CKR_OPERATION_CANCEL_FAILED
#define CKR_OPERATION_CANCEL_FAILED 0x202UL
#endif

#define CODE(name) { #name, CKR_##name }
static const struct { const char *name; CK_RV rv; } codes[] = {
    CODE(OK), CODE(HOST_MEMORY), CODE(SLOT_ID_INVALID), CODE(GENERAL_ERROR), CODE(FUNCTION_FAILED), CODE(ARGUMENTS_BAD),
    CODE(NO_EVENT), CODE(CANT_LOCK), CODE(ATTRIBUTE_READ_ONLY), CODE(ATTRIBUTE_SENSITIVE), CODE(ATTRIBUTE_TYPE_INVALID),
    CODE(ATTRIBUTE_VALUE_INVALID), CODE(ACTION_PROHIBITED), CODE(DATA_INVALID), CODE(DATA_LEN_RANGE), CODE(DEVICE_ERROR),
    CODE(DEVICE_MEMORY), CODE(DEVICE_REMOVED), CODE(ENCRYPTED_DATA_INVALID), CODE(ENCRYPTED_DATA_LEN_RANGE),
    CODE(FUNCTION_CANCELED), CODE(FUNCTION_NOT_PARALLEL), CODE(FUNCTION_NOT_SUPPORTED), CODE(KEY_HANDLE_INVALID),
    CODE(KEY_SIZE_RANGE), CODE(KEY_TYPE_INCONSISTENT), CODE(KEY_NOT_NEEDED), CODE(KEY_CHANGED), CODE(KEY_NEEDED),
    CODE(KEY_INDIGESTIBLE), CODE(KEY_FUNCTION_NOT_PERMITTED), CODE(KEY_NOT_WRAPPABLE), CODE(KEY_UNEXTRACTABLE),
    CODE(MECHANISM_INVALID), CODE(MECHANISM_PARAM_INVALID), CODE(OBJECT_HANDLE_INVALID), CODE(OPERATION_ACTIVE),
    CODE(OPERATION_NOT_INITIALIZED), CODE(PIN_INCORRECT), CODE(PIN_INVALID), CODE(PIN_LEN_RANGE), CODE(PIN_EXPIRED),
    CODE(PIN_LOCKED), CODE(SESSION_CLOSED), CODE(SESSION_COUNT), CODE(SESSION_HANDLE_INVALID),
    CODE(SESSION_PARALLEL_NOT_SUPPORTED), CODE(SESSION_READ_ONLY), CODE(SESSION_EXISTS), CODE(SESSION_READ_ONLY_EXISTS),
    CODE(SESSION_READ_WRITE_SO_EXISTS), CODE(SIGNATURE_INVALID), CODE(SIGNATURE_LEN_RANGE), CODE(TEMPLATE_INCOMPLETE),
    CODE(TEMPLATE_INCONSISTENT), CODE(TOKEN_NOT_PRESENT), CODE(TOKEN_NOT_RECOGNIZED), CODE(TOKEN_WRITE_PROTECTED),
    CODE(UNWRAPPING_KEY_HANDLE_INVALID), CODE(UNWRAPPING_KEY_SIZE_RANGE), CODE(UNWRAPPING_KEY_TYPE_INCONSISTENT),
    CODE(USER_ALREADY_LOGGED_IN), CODE(USER_NOT_LOGGED_IN), CODE(USER_PIN_NOT_INITIALIZED), CODE(USER_TYPE_INVALID),
    CODE(USER_ANOTHER_ALREADY_LOGGED_IN), CODE(USER_TOO_MANY_TYPES), CODE(WRAPPED_KEY_INVALID), CODE(WRAPPED_KEY_LEN_RANGE),
    CODE(WRAPPING_KEY_HANDLE_INVALID), CODE(WRAPPING_KEY_SIZE_RANGE), CODE(WRAPPING_KEY_TYPE_INCONSISTENT),
    CODE(RANDOM_SEED_NOT_SUPPORTED), CODE(RANDOM_NO_RNG), CODE(DOMAIN_PARAMS_INVALID), CODE(CURVE_NOT_SUPPORTED),
    CODE(BUFFER_TOO_SMALL), CODE(SAVED_STATE_INVALID), CODE(STATE_UNSAVEABLE), CODE(CRYPTOKI_NOT_INITIALIZED),
    CODE(CRYPTOKI_ALREADY_INITIALIZED), CODE(FUNCTION_REJECTED), CODE(OPERATION_CANCEL_FAILED),
};
enum { CODES = sizeof codes / sizeof *codes };

/* The index of a code; CODES for one that the standard does not have. */
static size_t index_of(CK_RV rv)
{
    size_t i = 0;
    while (i < CODES && codes[i].rv != rv)
        i++;
    return i;
}

#define ALWAYS " CRYPTOKI_NOT_INITIALIZED ARGUMENTS_BAD "
#define TOKEN ALWAYS "DEVICE_ERROR DEVICE_MEMORY DEVICE_REMOVED TOKEN_NOT_PRESENT TOKEN_NOT_RECOGNIZED "
#define SLOT TOKEN "SLOT_ID_INVALID "
#define SESSION TOKEN "SESSION_HANDLE_INVALID SESSION_CLOSED FUNCTION_CANCELED FUNCTION_REJECTED "
#define PINS "PIN_INCORRECT PIN_INVALID PIN_LEN_RANGE PIN_LOCKED PIN_EXPIRED "
#define MAKING SESSION "ATTRIBUTE_READ_ONLY ATTRIBUTE_TYPE_INVALID ATTRIBUTE_VALUE_INVALID CURVE_NOT_SUPPORTED DOMAIN_PARAMS_INVALID " \
    "PIN_EXPIRED SESSION_READ_ONLY TEMPLATE_INCOMPLETE TEMPLATE_INCONSISTENT TOKEN_WRITE_PROTECTED USER_NOT_LOGGED_IN "
#define MECHANISM "MECHANISM_INVALID MECHANISM_PARAM_INVALID "
#define BEGINNING SESSION MECHANISM "KEY_FUNCTION_NOT_PERMITTED KEY_HANDLE_INVALID KEY_SIZE_RANGE KEY_TYPE_INCONSISTENT OPERATION_ACTIVE " \
    "OPERATION_CANCEL_FAILED PIN_EXPIRED USER_NOT_LOGGED_IN "
#define USING SESSION "OPERATION_NOT_INITIALIZED "
#define GIVING USING "BUFFER_TOO_SMALL "
#define SIGNING GIVING "DATA_INVALID DATA_LEN_RANGE USER_NOT_LOGGED_IN "
#define DECRYPTING GIVING "ENCRYPTED_DATA_INVALID ENCRYPTED_DATA_LEN_RANGE USER_NOT_LOGGED_IN "
#define VERIFYING USING "DATA_INVALID DATA_LEN_RANGE SIGNATURE_INVALID SIGNATURE_LEN_RANGE "
#define ONE_PART "FUNCTION_NOT_SUPPORTED " /* of mechanisms that take data in one part only */
#define NOT_BUILT " CRYPTOKI_NOT_INITIALIZED FUNCTION_NOT_SUPPORTED "

enum { FIND = 1, DIGEST = 2, ENCRYPT = 4, DECRYPT = 8, SIGN = 16, SIGN_RECOVER = 32, VERIFY = 64, VERIFY_RECOVER = 128 };

/* One function. `takes`: a letter for each argument, or for one and its length, as arguments.h has them. `size`: of the structure that
 * 'i' fills. `begins`, `uses`: operations; `goes_on`: an operation that is used goes on. `does`: the CKF_ of the mechanisms that it
 * takes. `weight`: how often it is called when no operation is active. `never`: it cannot succeed here. */
typedef struct {
    const char *name, *takes, *answers;
    unsigned weight, begins, uses;
    CK_FLAGS does;
    size_t size;
    bool goes_on, never;
} function;

static const function functions[] = {
    { "C_Initialize", "I", ALWAYS "CRYPTOKI_ALREADY_INITIALIZED CANT_LOCK NEED_TO_CREATE_THREADS", 2 },
    { "C_Finalize", "N", ALWAYS, 1 },
    { "C_GetInfo", "i", ALWAYS, 20, .size = sizeof(CK_INFO) },
    { "C_GetFunctionList", "y", "ARGUMENTS_BAD", 10 },
    { "C_GetInterfaceList", "Y", "ARGUMENTS_BAD BUFFER_TOO_SMALL", 10 },
    { "C_GetInterface", "qVyf", "ARGUMENTS_BAD", 10 },
    { "C_GetSlotList", "PL", ALWAYS "BUFFER_TOO_SMALL", 20 },
    { "C_GetSlotInfo", "Si", ALWAYS "DEVICE_ERROR SLOT_ID_INVALID", 20, .size = sizeof(CK_SLOT_INFO) },
    { "C_GetTokenInfo", "Si", SLOT, 20, .size = sizeof(CK_TOKEN_INFO) },
    { "C_WaitForSlotEvent", "fvN", ALWAYS "NO_EVENT", 10, .never = true },
    { "C_GetMechanismList", "SL", SLOT "BUFFER_TOO_SMALL", 20 },
    { "C_GetMechanismInfo", "SMi", SLOT "MECHANISM_INVALID", 20, .size = sizeof(CK_MECHANISM_INFO) },
    { "C_InitToken", "Spl", SLOT PINS "SESSION_EXISTS TOKEN_WRITE_PROTECTED", 2 },
    { "C_InitPIN", "sp", SESSION PINS "SESSION_READ_ONLY TOKEN_WRITE_PROTECTED USER_NOT_LOGGED_IN", 5 },
    { "C_SetPIN", "spp", SESSION PINS "SESSION_READ_ONLY TOKEN_WRITE_PROTECTED USER_PIN_NOT_INITIALIZED", 2 },
    { "C_OpenSession", "SfX", SLOT "SESSION_COUNT SESSION_PARALLEL_NOT_SUPPORTED SESSION_READ_WRITE_SO_EXISTS TOKEN_WRITE_PROTECTED", 20 },
    { "C_CloseSession", "s", SESSION, 10 },
    { "C_CloseAllSessions", "S", SLOT, 2 },
    { "C_GetSessionInfo", "si", SESSION, 20, .size = sizeof(CK_SESSION_INFO) },
    { "C_SessionCancel", "sf", SESSION "OPERATION_CANCEL_FAILED", 10 },
    { "C_GetOperationState", "sB", GIVING "STATE_UNSAVEABLE", 10, .never = true },
    { "C_SetOperationState", "sboo", SESSION "KEY_CHANGED KEY_NEEDED KEY_NOT_NEEDED SAVED_STATE_INVALID", 10, .never = true },
    { "C_Login", "sup", SESSION PINS "OPERATION_NOT_INITIALIZED SESSION_READ_ONLY_EXISTS USER_ALREADY_LOGGED_IN "
      "USER_ANOTHER_ALREADY_LOGGED_IN USER_PIN_NOT_INITIALIZED USER_TOO_MANY_TYPES USER_TYPE_INVALID", 4 },
    { "C_LoginUser", "supb", SESSION PINS "OPERATION_NOT_INITIALIZED SESSION_READ_ONLY_EXISTS USER_ALREADY_LOGGED_IN "
      "USER_ANOTHER_ALREADY_LOGGED_IN USER_PIN_NOT_INITIALIZED USER_TOO_MANY_TYPES USER_TYPE_INVALID", 4 },
    { "C_Logout", "s", SESSION "USER_NOT_LOGGED_IN", 2 },
    { "C_CreateObject", "sth", MAKING, 20 },
    { "C_CopyObject", "soth", MAKING "ACTION_PROHIBITED OBJECT_HANDLE_INVALID", 20 },
    { "C_DestroyObject", "so", SESSION "ACTION_PROHIBITED OBJECT_HANDLE_INVALID PIN_EXPIRED SESSION_READ_ONLY TOKEN_WRITE_PROTECTED USER_NOT_LOGGED_IN", 10 },
    { "C_GetObjectSize", "so" "h", SESSION "OBJECT_HANDLE_INVALID", 20 },
    { "C_GetAttributeValue", "soT", SESSION "ATTRIBUTE_SENSITIVE ATTRIBUTE_TYPE_INVALID BUFFER_TOO_SMALL OBJECT_HANDLE_INVALID", 60 },
    { "C_SetAttributeValue", "sot", SESSION "ACTION_PROHIBITED ATTRIBUTE_READ_ONLY ATTRIBUTE_TYPE_INVALID ATTRIBUTE_VALUE_INVALID "
      "OBJECT_HANDLE_INVALID SESSION_READ_ONLY TEMPLATE_INCONSISTENT TOKEN_WRITE_PROTECTED USER_NOT_LOGGED_IN", 10 },
    { "C_FindObjectsInit", "st", SESSION "ATTRIBUTE_TYPE_INVALID ATTRIBUTE_VALUE_INVALID OPERATION_ACTIVE PIN_EXPIRED", 40, .begins = FIND },
    { "C_FindObjects", "sF", USING, 10, .uses = FIND, .goes_on = true },
    { "C_FindObjectsFinal", "s", USING, 5, .uses = FIND },
    { "C_EncryptInit", "smk", BEGINNING, 40, .begins = ENCRYPT, .does = CKF_ENCRYPT },
    { "C_Encrypt", "sbB", GIVING "DATA_INVALID DATA_LEN_RANGE", 3, .uses = ENCRYPT },
    { "C_EncryptUpdate", "sbB", GIVING ONE_PART "DATA_LEN_RANGE", 3, .uses = ENCRYPT, .goes_on = true },
    { "C_EncryptFinal", "sB", GIVING ONE_PART "DATA_LEN_RANGE", 3, .uses = ENCRYPT },
    { "C_DecryptInit", "smk", BEGINNING, 40, .begins = DECRYPT, .does = CKF_DECRYPT },
    { "C_Decrypt", "sbB", DECRYPTING, 3, .uses = DECRYPT },
    { "C_DecryptUpdate", "sbB", DECRYPTING ONE_PART, 3, .uses = DECRYPT, .goes_on = true },
    { "C_DecryptFinal", "sB", DECRYPTING ONE_PART, 3, .uses = DECRYPT },
    { "C_DigestInit", "sm", SESSION MECHANISM "OPERATION_ACTIVE OPERATION_CANCEL_FAILED PIN_EXPIRED USER_NOT_LOGGED_IN", 40,
      .begins = DIGEST, .does = CKF_DIGEST },
    { "C_Digest", "sbB", GIVING, 3, .uses = DIGEST },
    { "C_DigestUpdate", "sb", USING, 3, .uses = DIGEST, .goes_on = true },
    { "C_DigestKey", "so", USING "KEY_HANDLE_INVALID KEY_INDIGESTIBLE KEY_SIZE_RANGE", 3, .uses = DIGEST, .goes_on = true },
    { "C_DigestFinal", "sB", GIVING, 3, .uses = DIGEST },
    { "C_SignInit", "smk", BEGINNING, 30, .begins = SIGN, .does = CKF_SIGN },
    { "C_Sign", "sbB", SIGNING, 3, .uses = SIGN },
    { "C_SignUpdate", "sb", USING ONE_PART "DATA_LEN_RANGE USER_NOT_LOGGED_IN", 3, .uses = SIGN, .goes_on = true },
    { "C_SignFinal", "sB", SIGNING ONE_PART, 3, .uses = SIGN },
    { "C_SignRecoverInit", "smk", BEGINNING, 10, .begins = SIGN_RECOVER, .does = CKF_SIGN_RECOVER },
    { "C_SignRecover", "sbB", SIGNING, 3, .uses = SIGN_RECOVER },
    { "C_VerifyInit", "smk", BEGINNING, 40, .begins = VERIFY, .does = CKF_VERIFY },
    { "C_Verify", "sbb", VERIFYING, 3, .uses = VERIFY },
    { "C_VerifyUpdate", "sb", USING ONE_PART "DATA_LEN_RANGE", 3, .uses = VERIFY, .goes_on = true },
    { "C_VerifyFinal", "sb", VERIFYING ONE_PART, 3, .uses = VERIFY },
    { "C_VerifyRecoverInit", "smk", BEGINNING, 20, .begins = VERIFY_RECOVER, .does = CKF_VERIFY_RECOVER },
    { "C_VerifyRecover", "sbB", VERIFYING "BUFFER_TOO_SMALL", 3, .uses = VERIFY_RECOVER },
    { "C_DigestEncryptUpdate", "sbB", GIVING ONE_PART "DATA_LEN_RANGE", 5, .uses = DIGEST | ENCRYPT, .goes_on = true },
    { "C_DecryptDigestUpdate", "sbB", DECRYPTING ONE_PART, 5, .uses = DIGEST | DECRYPT, .goes_on = true },
    { "C_SignEncryptUpdate", "sbB", GIVING ONE_PART "DATA_LEN_RANGE USER_NOT_LOGGED_IN", 5, .uses = SIGN | ENCRYPT, .goes_on = true },
    { "C_DecryptVerifyUpdate", "sbB", DECRYPTING ONE_PART "DATA_LEN_RANGE", 5, .uses = VERIFY | DECRYPT, .goes_on = true },
    { "C_GenerateKey", "smth", MAKING MECHANISM, 10, .does = CKF_GENERATE },
    { "C_GenerateKeyPair", "smtth" "h", MAKING MECHANISM, 2, .does = CKF_GENERATE_KEY_PAIR },
    { "C_WrapKey", "smkoB", SESSION MECHANISM "BUFFER_TOO_SMALL KEY_FUNCTION_NOT_PERMITTED KEY_HANDLE_INVALID KEY_NOT_WRAPPABLE KEY_SIZE_RANGE "
      "KEY_UNEXTRACTABLE OPERATION_ACTIVE PIN_EXPIRED USER_NOT_LOGGED_IN WRAPPING_KEY_HANDLE_INVALID WRAPPING_KEY_SIZE_RANGE "
      "WRAPPING_KEY_TYPE_INCONSISTENT", 20, .does = CKF_WRAP },
    { "C_UnwrapKey", "smkbth", MAKING MECHANISM "BUFFER_TOO_SMALL KEY_FUNCTION_NOT_PERMITTED OPERATION_ACTIVE UNWRAPPING_KEY_HANDLE_INVALID "
      "UNWRAPPING_KEY_SIZE_RANGE UNWRAPPING_KEY_TYPE_INCONSISTENT WRAPPED_KEY_INVALID WRAPPED_KEY_LEN_RANGE", 20, .does = CKF_UNWRAP },
    { "C_DeriveKey", "smkth", MAKING MECHANISM "KEY_FUNCTION_NOT_PERMITTED KEY_HANDLE_INVALID KEY_SIZE_RANGE KEY_TYPE_INCONSISTENT OPERATION_ACTIVE", 10,
      .does = CKF_DERIVE },
    { "C_SeedRandom", "sb", SESSION "OPERATION_ACTIVE RANDOM_NO_RNG RANDOM_SEED_NOT_SUPPORTED USER_NOT_LOGGED_IN", 4 },
    { "C_GenerateRandom", "sR", SESSION "OPERATION_ACTIVE RANDOM_NO_RNG USER_NOT_LOGGED_IN", 4 },
    { "C_GetFunctionStatus", "s", SESSION "FUNCTION_NOT_PARALLEL", 5, .never = true },
    { "C_CancelFunction", "s", SESSION "FUNCTION_NOT_PARALLEL", 5, .never = true },
    { "C_MessageEncryptInit", "smk", NOT_BUILT, 2, .does = CKF_ENCRYPT, .never = true },
    { "C_EncryptMessage", "sbbbB", NOT_BUILT, 2, .never = true },
    { "C_EncryptMessageBegin", "sbb", NOT_BUILT, 2, .never = true },
    { "C_EncryptMessageNext", "sbbBf", NOT_BUILT, 2, .never = true },
    { "C_MessageEncryptFinal", "s", NOT_BUILT, 2, .never = true },
    { "C_MessageDecryptInit", "smk", NOT_BUILT, 2, .does = CKF_DECRYPT, .never = true },
    { "C_DecryptMessage", "sbbbB", NOT_BUILT, 2, .never = true },
    { "C_DecryptMessageBegin", "sbb", NOT_BUILT, 2, .never = true },
    { "C_DecryptMessageNext", "sbbBf", NOT_BUILT, 2, .never = true },
    { "C_MessageDecryptFinal", "s", NOT_BUILT, 2, .never = true },
    { "C_MessageSignInit", "smk", NOT_BUILT, 2, .does = CKF_SIGN, .never = true },
    { "C_SignMessage", "sbbB", NOT_BUILT, 2, .never = true },
    { "C_SignMessageBegin", "sb", NOT_BUILT, 2, .never = true },
    { "C_SignMessageNext", "sbbB", NOT_BUILT, 2, .never = true },
    { "C_MessageSignFinal", "s", NOT_BUILT, 2, .never = true },
    { "C_MessageVerifyInit", "smk", NOT_BUILT, 2, .does = CKF_VERIFY, .never = true },
    { "C_VerifyMessage", "sbbb", NOT_BUILT, 2, .never = true },
    { "C_VerifyMessageBegin", "sb", NOT_BUILT, 2, .never = true },
    { "C_VerifyMessageNext", "sbbb", NOT_BUILT, 2, .never = true },
    { "C_MessageVerifyFinal", "s", NOT_BUILT, 2, .never = true },
};
enum { FUNCTIONS = sizeof functions / sizeof *functions };

static bool may_answer(const function *f, size_t code)
{
    if (code == 0)
        return !f->never;
    size_t length = code < CODES ? strlen(codes[code].name) : 0;
    for (const char *word = f->answers; length && (word = strstr(word, codes[code].name)); word += length)
        if ((word == f->answers || word[-1] == ' ') && (!word[length] || word[length] == ' '))
            return true;
    return false;
}

static const function *function_of(const char *name)
{
    for (size_t i = 0; i < FUNCTIONS; i++)
        if (!strcmp(functions[i].name, name))
            return &functions[i];
    _exit(3);
}
