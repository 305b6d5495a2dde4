/* The functions that find the others (Base Specification 3.0, clause 5.4): no Python, no state, before C_Initialize too. */

#include "abi.h"

#include <stdbool.h>
#include <string.h>

static const CK_INTERFACE interfaces[] = { /* the default one first; a child after fork begins anew: not fork safe */
    { (void *)"PKCS 11", (void *)&functions_3_0, 0 },
    { (void *)"PKCS 11", (void *)&functions_2_40, 0 },
};

enum { INTERFACES = sizeof interfaces / sizeof *interfaces };

CK_RV C_GetFunctionList(CK_FUNCTION_LIST **list)
{
    if (!list)
        return CKR_ARGUMENTS_BAD;
    *list = (CK_FUNCTION_LIST *)&functions_2_40;
    return CKR_OK;
}

CK_RV C_GetInterfaceList(CK_INTERFACE *list, CK_ULONG *number)
{
    if (!number)
        return CKR_ARGUMENTS_BAD;
    CK_ULONG room = *number;
    *number = INTERFACES;
    if (!list)
        return CKR_OK;
    if (room < INTERFACES)
        return CKR_BUFFER_TOO_SMALL;
    memcpy(list, interfaces, sizeof interfaces);
    return CKR_OK;
}

static bool is_asked_for(const CK_INTERFACE *interface, const CK_UTF8CHAR *name, const CK_VERSION *version, CK_FLAGS flags)
{
    const CK_VERSION *its = interface->pFunctionList; /* every list begins with its version */
    return (!name || !strcmp((const char *)name, (const char *)interface->pInterfaceName))
        && (!version || (version->major == its->major && version->minor == its->minor))
        && (interface->flags & flags) == flags;
}

CK_RV C_GetInterface(CK_UTF8CHAR *name, CK_VERSION *version, CK_INTERFACE **found, CK_FLAGS flags)
{
    if (!found)
        return CKR_ARGUMENTS_BAD;
    for (size_t i = 0; i < INTERFACES; i++)
        if (is_asked_for(&interfaces[i], name, version, flags)) {
            /* Wrappers such as pkcs11-spy put their own list into what they get here: the next caller gets ours again. */
            static CK_INTERFACE given[INTERFACES];
            given[i] = interfaces[i];
            *found = &given[i];
            return CKR_OK;
        }
    return CKR_ARGUMENTS_BAD; /* there is none such; the standard leaves the code open, and this is OpenSC's and p11-kit's */
}
