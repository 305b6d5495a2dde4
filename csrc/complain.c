/* What goes wrong before the log is known goes to syslog, as the log does by default. Never to a descriptor of the host's: what it
 * has as descriptor 2 may be the socket of a peer. */

#include "complain.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <syslog.h>

#include "syslog_message.h"

void complain(const char *format, ...)
{
    char text[1024];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    send_to_syslog("/dev/log", LOG_ERR, text);
}

/* Where this copy of the module is: there may be others in the process. */
static const char *own_path(void)
{
    Dl_info module = { 0 };
    return dladdr((void *)own_path, &module) && module.dli_fname ? module.dli_fname : "MODULE";
}

void complain_and_advise(const char *what)
{
    complain("%s; let p11-kit run it in a process of its own (pkcs11.conf(5)): \"remote: |p11-kit remote '%s'\"", what,
             own_path());
}
