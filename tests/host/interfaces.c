/* interfaces MODULE NAME...: the lists and interfaces; the names are those of the functions that 3.0 adds, in order. */
#include "host.h"

typedef struct { CK_BYTE *name; void *list; CK_FLAGS flags; } interface;
typedef struct { CK_FUNCTION_LIST old; void *added[24]; } list_3_0; /* it begins as the old one does */
typedef CK_RV (*get_interface)(const char *name, CK_VERSION *version, interface **found, CK_FLAGS flags);
typedef CK_RV (*get_interface_list)(interface *list, CK_ULONG *count);

static get_interface get;

static void try(const char *what, const char *name, int major, int minor, CK_FLAGS flags)
{
    CK_VERSION version = { (CK_BYTE)major, (CK_BYTE)minor };
    interface *found = NULL;
    CK_RV rv = get(name, major < 0 ? NULL : &version, &found, flags);
    if (rv)
        say("%s 0x%lx", what, rv);
    else
        say("%s %s %d.%d %lu", what, found->name, ((CK_VERSION *)found->list)->major,
            ((CK_VERSION *)found->list)->minor, found->flags);
}

int main(int argc, char **argv)
{
    void *library = open_module(argv[1], RTLD_NOW | RTLD_LOCAL);
    CK_FUNCTION_LIST *list = functions_of(library);
    get_interface_list all = (get_interface_list)dlsym(library, "C_GetInterfaceList");
    interface interfaces[3], *found;
    CK_ULONG count = 1;
    get = (get_interface)dlsym(library, "C_GetInterface");
    say("list %d.%d", list->version.major, list->version.minor);
    say("list to NULL 0x%lx", ((CK_C_GetFunctionList)dlsym(library, "C_GetFunctionList"))(NULL));
    say("interfaces to NULL 0x%lx", all(interfaces, NULL));
    CK_RV rv = all(interfaces, &count);
    say("interfaces of 1 0x%lx %lu", rv, count);
    count = 0;
    rv = all(NULL, &count);
    say("interfaces asked 0x%lx %lu", rv, count);
    count = 3;
    rv = all(interfaces, &count);
    say("interfaces of 3 0x%lx %lu", rv, count);
    for (CK_ULONG i = 0; i < count; i++)
        say("interface %s %d.%d %lu", interfaces[i].name, ((CK_VERSION *)interfaces[i].list)->major,
            ((CK_VERSION *)interfaces[i].list)->minor, interfaces[i].flags);
    say("to NULL 0x%lx", get("PKCS 11", NULL, NULL, 0));
    try("default", NULL, -1, 0, 0);
    try("by name", "PKCS 11", -1, 0, 0);
    try("2.40", "PKCS 11", 2, 40, 0);
    try("3.0", NULL, 3, 0, 0);
    try("3.1", NULL, 3, 1, 0);
    try("3.2", "PKCS 11", 3, 2, 0);
    try("other name", "Vendor XYZ", -1, 0, 0);
    try("fork safe", NULL, -1, 0, 1);
    must(get(NULL, NULL, &found, 0));
    list_3_0 *new = found->list;
    if (memcmp(&new->old.C_Initialize, &list->C_Initialize, sizeof *list - offsetof(CK_FUNCTION_LIST, C_Initialize)))
        say("the lists differ");
    for (int i = 2; i < argc; i++)
        if (new->added[i - 2] != dlsym(library, argv[i]))
            say("%s is not in its place", argv[i]);
    say("compared");
    return 0;
}
