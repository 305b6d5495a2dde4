/*
 * p11tpm._native: what Python cannot do for a guest in somebody else's process.
 *
 * A connection carries TPM commands to a device, to a socket of swtpm or tpm2-abrmd, or to whatever libtss2-tctildr can load.
 * Devices and sockets are opened here and not by that library, because it
 *  - writes its errors to the host's stderr and can be silenced by environment variables only, which belong to the host;
 *  - reads TSS2_LOGFILE by getenv(), and creates that file, even in a setuid program;
 *  - hides errno, so that "not in group tss" and "no TPM" look the same;
 *  - opens descriptors that a program started meanwhile by another thread inherits.
 * What the library still has to do (mssim, cmd, ...) is done by a thread of its own (loader.c), and refused to setuid programs.
 */

#ifndef _GNU_SOURCE
#define _GNU_SOURCE
#endif

#include <errno.h>
#include <fcntl.h>
#include <linux/close_range.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <syslog.h>
#include <time.h>
#include <unistd.h>

#define OPENSSL_SUPPRESS_DEPRECATED /* for SHA256_Init() and what belongs to it: csrc/secret.c */
#include <openssl/bn.h>
#include <openssl/ec.h>
#include <openssl/obj_mac.h>
#include <openssl/sha.h>
#include <tss2/tss2_tctildr.h>

#ifndef MODULE_PATH
#error "MODULE_PATH: where the PKCS#11 module of this build is"
#endif
static const char module_path[] = MODULE_PATH;
#undef MODULE_PATH
#define MODULE_PATH module_path

/* True in a program that runs with other rights than its caller's (getauxval(3), AT_SECURE). */
static int secure(void)
{
    return getauxval(AT_SECURE) != 0;
}

#include "root.c"
#include "syslog.c"
#include "agreement.c"
#include "secret.c"
#include "descriptor.c"
#include "connection.h"
#include "keeper.c"
#include "device.c"
#include "swtpm.c"
#include "broker.c"
#include "loader.c"
#include "exit.c"
#include "idle.c"
#include "connection.c"
